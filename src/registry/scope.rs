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

    /// All of `self`, spelled as a challenge names it. What the challenge names beyond that is left out: a registry must not
    /// turn a login into a token for other repositories or actions. If the repository is not known, because a redirect target's
    /// path does not name it, it is the first one of the challenge, to read from.
    pub(super) fn as_challenged(&self, named: &Self) -> Self {
        let Some(wanted) = self.0.first() else {
            let read = |permission: &String| Some(Self(vec![clip(permission, None)?]));
            return named.0.iter().find_map(read).unwrap_or_else(|| self.clone());
        };
        // Some registries have classes of repositories: repository(plugin):NAME:pull.
        let clipped = named.0.iter().filter_map(|permission| clip(permission, Some(wanted)));
        let classes = clipped.filter(|permission| permission.starts_with("repository(")).collect();
        self.clone().and(Self(classes))
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

/// The part of a permission that is within `wanted`; without one, reading from its repository.
fn clip(permission: &str, wanted: Option<&String>) -> Option<String> {
    let (resource, actions) = permission.rsplit_once(':')?;
    let (kind, name) = resource.split_once(':')?;
    let (wanted_name, wanted_actions) = match wanted {
        Some(wanted) => wanted.strip_prefix("repository:")?.rsplit_once(':')?,
        None => (name, "pull"),
    };
    let is_repository = kind == "repository" || (kind.starts_with("repository(") && kind.ends_with(')'));
    let mut actions = actions.split(',').filter(|action| wanted_actions.split(',').any(|wanted| wanted == *action));
    let first = actions.next().filter(|_| is_repository && name == wanted_name)?;
    Some(actions.fold(format!("{resource}:{first}"), |clipped, action| format!("{clipped},{action}")))
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

    #[test]
    fn challenge_does_not_widen_a_scope() {
        let pull = Scope::pull("edge/a");
        for (named, asked) in [
            ("", "repository:edge/a:pull"),
            ("repository:edge/a:pull", "repository:edge/a:pull"),
            ("repository:edge/a:pull,push,delete,*", "repository:edge/a:pull"),
            ("repository:other/secret:pull,push,delete registry:catalog:*", "repository:edge/a:pull"),
            ("registry:edge/a:pull repository:edge/a repository::pull :::", "repository:edge/a:pull"),
            ("repository(plugin):edge/a:push,pull", "repository:edge/a:pull repository(plugin):edge/a:pull"),
        ] {
            assert_eq!(pull.as_challenged(&Scope::parse(named)).to_string(), asked, "{named}");
        }
        let push = Scope::push("edge/a").and(Scope::pull("edge/b"));
        let named = Scope::parse("repository:edge/a:pull,push,delete repository:edge/c:pull");
        assert_eq!(push.as_challenged(&named), push);
        let unknown = Scope::parse("");
        let named = Scope::parse("registry:catalog:* repository:edge/a:pull,push repository:edge/b:pull");
        assert_eq!(unknown.as_challenged(&named).to_string(), "repository:edge/a:pull");
        assert_eq!(unknown.as_challenged(&Scope::parse("registry:catalog:*")), unknown);
    }
}
