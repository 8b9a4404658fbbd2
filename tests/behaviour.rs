//! Every behaviour, one module each.
