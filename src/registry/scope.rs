//! What a token is to allow (distribution specification, "Token scope documentation").

use std::fmt;

/// One or more permissions, each for one repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope(Vec<String>);

impl Scope {
    /// Reading from `repository`.
    pub(super) fn pull(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull")])
    }

    /// Reading from `repository`, and writing to it.
    pub(super) fn push(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull,push")])
    }

    /// All of `self`, and all of `other`.
    pub(super) fn and(mut self, other: Self) -> Self {
        for permission in other.0 {
            if !self.0.contains(&permission) {
                self.0.push(permission);
            }
        }
        self
    }

    /// What a challenge names: permissions with spaces between them.
    pub fn parse(text: &str) -> Self {
        Self(text.split(' ').filter(|permission| !permission.is_empty()).map(str::to_owned).collect())
    }

    /// The repository of the first permission, whose credentials count; empty if it is for something else.
    pub(super) fn repository(&self) -> &str {
        let named = self.0.first().and_then(|first| first.strip_prefix("repository:")?.rsplit_once(':'));
        named.map_or("", |(repository, _)| repository)
    }

    /// Whether nothing is to be written.
    pub(super) fn is_read_only(&self) -> bool {
        self.0.iter().all(|permission| permission.ends_with(":pull"))
    }

    /// The permissions, in the form in which a token is asked for.
    pub(super) fn permissions(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_add_up_and_none_counts_twice() {
        let scope =
            Scope::push("edge/a").and(Scope::pull("edge/b")).and(Scope::parse(" repository:edge/b:pull  x:y:z"));
        assert_eq!(scope.to_string(), "repository:edge/a:pull,push repository:edge/b:pull x:y:z");
        assert_eq!(scope.permissions().count(), 3);
        assert_eq!(scope.repository(), "edge/a");
        assert_eq!(Scope::parse("registry:catalog:*").repository(), "");
        assert!(Scope::pull("edge/a").is_read_only() && !scope.is_read_only());
    }
}
