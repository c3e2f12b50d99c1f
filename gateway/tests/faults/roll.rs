//! Who is there, as one client has been told: each comes once and leaves once. Pure.

use std::collections::BTreeSet;

use crate::client::Presence;

/// What follows from a list and the joins and leaves behind it.
#[derive(Debug, Default)]
pub struct Roll {
    /// Client ids.
    pub present: BTreeSet<String>,
    /// Joins and leaves since the first list.
    pub changes: usize,
    /// A join of who was there, or a leave of who was not.
    pub wrong: Vec<Presence>,
}

impl Roll {
    pub fn of(told: &[Presence]) -> Self {
        let mut roll = Self::default();
        for presence in told {
            let is_right = match presence {
                Presence::List(all) => {
                    roll.present = all.iter().cloned().collect();
                    roll.present.len() == all.len()
                }
                Presence::Join(client) => roll.present.insert(client.clone()),
                Presence::Leave(client) => roll.present.remove(client),
            };
            roll.changes += usize::from(!matches!(presence, Presence::List(_)));
            if !is_right {
                roll.wrong.push(presence.clone());
            }
        }
        roll
    }
}

mod tests {
    use super::*;

    /// `=ab` is a list, `+c` a join, `-a` a leave.
    fn roll(script: &str) -> (String, usize, usize) {
        let one = |word: &str| {
            let (kind, who) = word.split_at(1);
            match kind {
                "=" => Presence::List(who.chars().map(String::from).collect()),
                "+" => Presence::Join(who.to_owned()),
                _ => Presence::Leave(who.to_owned()),
            }
        };
        let roll = Roll::of(&script.split_whitespace().map(one).collect::<Vec<_>>());
        (roll.present.into_iter().collect(), roll.changes, roll.wrong.len())
    }

    #[test]
    fn joins_and_leaves_change_the_list_and_come_once() {
        assert_eq!(roll("=ab +c -a"), ("bc".into(), 2, 0));
        assert_eq!(roll("=ab +b"), ("ab".into(), 1, 1), "joined twice");
        assert_eq!(roll("=ab -a -a"), ("b".into(), 2, 1), "left twice");
        assert_eq!(roll("=ab -c"), ("ab".into(), 1, 1), "left without having been there");
        assert_eq!(roll("=aa"), ("a".into(), 0, 1), "listed twice");
        assert_eq!(roll("=ab +c =cd"), ("cd".into(), 1, 0), "a new list stands for itself");
    }
}
