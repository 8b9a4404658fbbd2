//! A login for a registry.

use std::fmt;

/// Characters of a user's name that a message shows.
const MAX_SHOWN: usize = 80;

/// The proof of an identity for a registry. Its debug form shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A user's name and password, as bytes: they need not be UTF-8.
    Password {
        /// The user's name.
        username: Vec<u8>,
        /// The password, or an access token that stands in for one.
        password: Vec<u8>,
    },
    /// An identity token, which a token service has issued in place of a password.
    Identity(String),
    /// A bearer token for the registry itself.
    Token(String),
}

impl Login {
    /// The login for a message, without its secret. Beside an empty password, or GitHub's placeholder for one, the name is an
    /// access token.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Password { password, .. } if matches!(password.as_slice(), b"" | b"x-oauth-basic") => {
                "a login without a password".to_owned()
            }
            Self::Password { username, .. } => {
                let name: String = String::from_utf8_lossy(username).chars().take(MAX_SHOWN).collect();
                format!("user {name:?}")
            }
            Self::Identity(_) => "the identity token".to_owned(),
            Self::Token(_) => "the registry token".to_owned(),
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}
