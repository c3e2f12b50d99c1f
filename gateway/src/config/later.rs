//! Settings that the design names and this version does not honour yet: refused like any unknown one, for a setting
//! without effect is worse than none, but with a word that says so.

/// Each dotted. A section stands for all that is in it.
const LATER: &[&str] = &[]; // at the moment none

/// Whether a later version will know this setting.
pub(super) fn is_later(path: &[String]) -> bool {
    LATER.iter().any(|later| later.split('.').eq(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_only() {
        let is_later = |path: &str| is_later(&path.split('.').map(Into::into).collect::<Vec<_>>());
        assert!(!is_later("sockjs"));
        assert!(!is_later("node.advertise"));
        assert!(!is_later("drain"));
        assert!(!is_later("auth.tokens.keys"));
        assert!(!is_later("limits.connections"));
        assert!(!is_later("limits"));
    }
}
