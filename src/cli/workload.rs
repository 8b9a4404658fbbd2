//! The workload that a command is about.

use crate::desired::{WorkloadName, WorkloadNameError};
use crate::failure::Failure;
use crate::wording;

/// The workload that is named so on the command line. It needs no escaping in a path, once it is checked.
pub(super) fn named(name: &str) -> Result<WorkloadName, Failure> {
    name.parse().map_err(|error: WorkloadNameError| Failure::usage(error.to_string()))
}

/// The only one of those that there are, for where none is named; none where there is none.
pub(super) fn only(mut all: Vec<WorkloadName>) -> Result<Option<WorkloadName>, Failure> {
    if all.len() > 1 {
        return Err(Failure::usage(format!("there are several workloads: name one of {}", list(&all))));
    }
    Ok(all.pop())
}

/// Names, for a message.
pub(super) fn list(names: &[WorkloadName]) -> String {
    wording::list(&names.iter().map(WorkloadName::as_str).collect::<Vec<_>>())
}
