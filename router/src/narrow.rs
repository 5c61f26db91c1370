//! Which of a role's nodes come into question for a request, before [`placement`](crate::placement) picks one of them: rules
//! narrow the pool. Pure.
//!
//! 1. Nodes that are kept for other apps do not; where some that are fit are kept for this app, only they do.
//! 2. Those of the router's own zone come first, while that zone does its part: it is passed over when its nodes are fit to
//!    less than half the degree that all are, or when all that are fit are full.

/// One linked node of the role.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    /// What it is to get now beside others; 0: nothing.
    pub(crate) weight: u32,
    /// What it would get if all were well.
    pub(crate) weight_whole: u32,
    /// It stands in the router's zone.
    pub(crate) own_zone: bool,
    /// Which apps it serves.
    pub(crate) app: Serves,
    /// Full by its own word or ours.
    pub(crate) full: bool,
}

/// Whether a node serves the request's app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serves {
    /// It is kept for this app, and some others perhaps.
    Kept,
    /// It serves all.
    Everybody,
    /// It is kept for other apps.
    Others,
}

/// The indexes of the members that come into question, into `out`.
pub(crate) fn narrow(members: &[Member], out: &mut Vec<usize>) {
    out.clear();
    let is_fit = |member: &Member| member.weight > 0;
    let kept = members
        .iter()
        .any(|member| member.app == Serves::Kept && is_fit(member));
    let served_by = if kept { Serves::Kept } else { Serves::Everybody };
    let serves = |member: &&Member| member.app == served_by;

    let (mut own, mut all) = (Degree::default(), Degree::default());
    let mut own_has_room = false;
    for member in members.iter().filter(serves) {
        all.add(member);
        if member.own_zone {
            own.add(member);
            own_has_room |= is_fit(member) && !member.full;
        }
    }
    let own_only = own_has_room && own.is_half_of(&all);
    let wanted = |member: &Member| serves(&member) && is_fit(member) && (member.own_zone || !own_only);
    out.extend(
        members
            .iter()
            .enumerate()
            .filter(|(_, member)| wanted(member))
            .map(|(index, _)| index),
    );
}

/// How much of what some nodes can do they can do now.
#[derive(Debug, Default)]
struct Degree {
    fit: u64,
    whole: u64,
}

impl Degree {
    fn add(&mut self, member: &Member) {
        self.fit += u64::from(member.weight);
        self.whole += u64::from(member.weight_whole);
    }

    /// Whether this degree is at least half of that one.
    fn is_half_of(&self, other: &Self) -> bool {
        self.fit * other.whole * 2 >= other.fit * self.whole
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(own_zone: bool) -> Member {
        Member {
            weight: 1_000,
            weight_whole: 1_000,
            own_zone,
            app: Serves::Everybody,
            full: false,
        }
    }

    fn unfit(own_zone: bool) -> Member {
        Member {
            weight: 0,
            ..member(own_zone)
        }
    }

    fn narrowed(members: &[Member]) -> Vec<usize> {
        let mut out = vec![99];
        narrow(members, &mut out);
        out
    }

    #[test]
    fn the_own_zone_comes_first_and_without_one_all_do() {
        assert_eq!(narrowed(&[member(false), member(true), member(false)]), [1]);
        assert_eq!(narrowed(&[member(false), member(false)]), [0, 1]);
        assert_eq!(narrowed(&[]), [0_usize; 0]);
    }

    #[test]
    fn the_others_step_in_when_the_own_zone_is_gone_or_full_or_mostly_unfit() {
        assert_eq!(narrowed(&[unfit(true), member(false)]), [1]);
        let full = Member {
            full: true,
            ..member(true)
        };
        assert_eq!(narrowed(&[full, member(false)]), [0, 1]);
        assert_eq!(
            narrowed(&[full, member(true), member(false)]),
            [0, 1],
            "one has room"
        );
        // One of four left, where the other zone is whole.
        let mut pool = vec![member(true), unfit(true), unfit(true), unfit(true)];
        pool.extend([member(false); 4]);
        assert_eq!(narrowed(&pool), [0, 4, 5, 6, 7]);
        pool[1] = member(true);
        assert_eq!(narrowed(&pool), [0, 1], "two of four bear it");
    }

    #[test]
    fn a_node_that_comes_back_alone_to_its_zone_starts_slowly_and_a_whole_cluster_at_once() {
        let starting = |own_zone| Member {
            weight: 100,
            ..member(own_zone)
        };
        assert_eq!(
            narrowed(&[starting(true), member(false), member(false)]),
            [0, 1, 2]
        );
        assert_eq!(narrowed(&[starting(true), starting(false)]), [0]);
    }

    #[test]
    fn an_app_with_nodes_of_its_own_uses_them_while_they_are_fit_and_others_never_do() {
        let of = |app| Member { app, ..member(false) };
        let (kept, all, others) = (of(Serves::Kept), of(Serves::Everybody), of(Serves::Others));
        assert_eq!(narrowed(&[kept, all, others]), [0]);
        assert_eq!(narrowed(&[Member { weight: 0, ..kept }, all, others]), [1]);
        assert_eq!(narrowed(&[others]), [0_usize; 0]);
    }

    proptest! {
        #[test]
        fn whoever_has_a_fit_node_that_may_serve_gets_one(
            pool in prop::collection::vec((0_u32..3, prop::bool::ANY, prop::bool::ANY, 0_u8..3), 0..8),
        ) {
            let pool: Vec<Member> = pool
                .into_iter()
                .map(|(weight, own_zone, full, app)| Member {
                    weight: weight * 500,
                    weight_whole: 1_000,
                    own_zone,
                    app: [Serves::Kept, Serves::Everybody, Serves::Others][usize::from(app)],
                    full,
                })
                .collect();
            let chosen = narrowed(&pool);
            let may = |member: &Member| member.weight > 0 && member.app != Serves::Others;
            prop_assert_eq!(chosen.is_empty(), !pool.iter().any(may));
            prop_assert!(chosen.iter().all(|index| may(&pool[*index])));
            // Nobody is sent to full nodes while there are others that may serve it as well.
            let room = |index: &usize| !pool[*index].full;
            let kept = chosen.iter().any(|index| pool[*index].app == Serves::Kept);
            let as_well = |member: &Member| may(member) && !member.full && (member.app == Serves::Kept) == kept;
            if !chosen.is_empty() && pool.iter().any(as_well) {
                prop_assert!(chosen.iter().any(room));
            }
        }
    }
}
