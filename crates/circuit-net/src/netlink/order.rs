//! Deciding which default routes get another metric.

/// How far apart the metrics of two interfaces are.
const STEP: u32 = 100;

/// What the order depends on in a default route of one family.
pub(super) trait Ranked {
    /// The index of the interface.
    fn oif(&self) -> u32;
    /// The metric; the lowest wins.
    fn metric(&self) -> u32;
    /// Whether it is not to be touched, though its interface is listed.
    fn fixed(&self) -> bool;
}

/// Which metrics a family has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metrics {
    /// The metric of a route that is made without one.
    pub(super) base: u32,
    /// Whether routes with the same metric are used together, so that there is
    /// no first among them.
    pub(super) shared: bool,
}

/// Routes of an interface that get another metric.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Move {
    /// The routes, by their place in the list.
    pub(super) routes: Vec<usize>,
    /// The metric.
    pub(super) to: u32,
    /// Whether they come before others that have this metric.
    pub(super) front: bool,
}

/// What brings routes into the order of their interfaces, in the order in
/// which it is to be done; nothing when they are in it. `routes` is sorted as
/// the kernel sorts it, by metric.
pub(super) fn moves<R: Ranked>(routes: &[R], interfaces: &[u32], metrics: Metrics) -> Vec<Move> {
    let mut ranked: Vec<u32> = Vec::new();
    for oif in interfaces {
        if !ranked.contains(oif) && routes.iter().any(|route| route.oif() == *oif) {
            ranked.push(*oif);
        }
    }
    if in_order(routes, &ranked, metrics) {
        return Vec::new();
    }
    let (mut down, mut up) = (Vec::new(), Vec::new());
    let mut to = metrics.base;
    for (place, &oif) in ranked.iter().enumerate() {
        let taken = |metric| {
            let others = |route: &&R| is_foreign(*route, &ranked) && route.oif() != oif;
            routes.iter().filter(others).any(|r| r.metric() == metric)
        };
        if place > 0 {
            while taken(to) {
                to = to.saturating_add(1);
            }
        } else if metrics.shared {
            while taken(to) && to > 1 {
                to -= 1;
            }
        }
        let of_it = |fixed| {
            let own = move |r: &&R| r.oif() == oif && r.fixed() == fixed;
            routes.iter().filter(own).map(Ranked::metric).min()
        };
        if let Some(metric) = of_it(false) {
            let step = step(routes, oif, metric, to, &ranked);
            match step {
                step if step.routes.is_empty() => {}
                step if metric < to => down.push(step),
                step => up.push(step),
            }
        }
        to = to.max(of_it(true).unwrap_or(0)).saturating_add(STEP);
    }
    // Those that make place first, the last of them at the head.
    down.reverse();
    down.extend(up);
    down
}

/// Whether each interface's best route comes before the next one's already.
fn in_order<R: Ranked>(routes: &[R], ranked: &[u32], metrics: Metrics) -> bool {
    let best: Vec<u32> = ranked
        .iter()
        .filter_map(|oif| {
            let own = routes.iter().filter(|route| route.oif() == *oif);
            own.map(Ranked::metric).min()
        })
        .collect();
    let mixed = metrics.shared
        && routes
            .iter()
            .any(|r| !ranked.contains(&r.oif()) && best.contains(&r.metric()));
    !mixed && best.is_sorted_by(|a, b| a < b)
}

/// Gives an interface's best routes, those of `metric`, the metric `to`, and
/// those that would then be better than they.
fn step<R: Ranked>(routes: &[R], oif: u32, metric: u32, to: u32, ranked: &[u32]) -> Move {
    let moved = |route: &R| {
        let now = route.metric();
        route.oif() == oif && !route.fixed() && now != to && (now == metric || now < to)
    };
    let there = routes.iter().find(|route| route.metric() == to);
    let place = |oif| ranked.iter().position(|other| *other == oif);
    // Whoever came before others' routes of this metric still does, unless they are
    // of an interface that is to come behind.
    let behind = |route: &R| place(route.oif()) > place(oif);
    Move {
        routes: (0..routes.len()).filter(|n| moved(&routes[*n])).collect(),
        to,
        front: there.is_some_and(|route| !is_foreign(route, ranked) || behind(route)),
    }
}

/// Whether a route stays where it is.
fn is_foreign<R: Ranked>(route: &R, ranked: &[u32]) -> bool {
    route.fixed() || !ranked.contains(&route.oif())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V4: Metrics = Metrics {
        base: 0,
        shared: false,
    };
    const V6: Metrics = Metrics {
        base: 1024,
        shared: true,
    };

    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Model {
        name: usize,
        oif: u32,
        metric: u32,
        fixed: bool,
    }

    impl Ranked for Model {
        fn oif(&self) -> u32 {
            self.oif
        }
        fn metric(&self) -> u32 {
            self.metric
        }
        fn fixed(&self) -> bool {
            self.fixed
        }
    }

    fn table(routes: &[(u32, u32)]) -> Vec<Model> {
        let mut table: Vec<Model> = routes
            .iter()
            .enumerate()
            .map(|(name, (oif, metric))| Model {
                name,
                oif: *oif,
                metric: *metric,
                fixed: false,
            })
            .collect();
        table.sort_by_key(|route| route.metric);
        table
    }

    /// What the kernel makes of moves.
    fn apply(table: &[Model], moves: &[Move]) -> Vec<Model> {
        let mut after = table.to_vec();
        for Move { routes, to, front } in moves {
            let copies: Vec<Model> = routes.iter().map(|n| table[*n].clone()).collect();
            after.retain(|route| copies.iter().all(|copy| copy.name != route.name));
            let at = after
                .iter()
                .position(|r| r.metric > *to || (*front && r.metric == *to))
                .unwrap_or(after.len());
            let copies = copies.into_iter().map(|copy| Model {
                metric: *to,
                ..copy
            });
            after.splice(at..at, copies);
        }
        after
    }

    fn ordered(routes: &[(u32, u32)], interfaces: &[u32], metrics: Metrics) -> Vec<(u32, u32)> {
        let table = table(routes);
        let after = apply(&table, &moves(&table, interfaces, metrics));
        after.iter().map(|r| (r.oif, r.metric)).collect()
    }

    #[test]
    fn the_last_network_does_not_win() {
        let after = ordered(&[(3, 0), (2, 0), (1, 0)], &[1, 2, 3], V4);
        assert_eq!(after, [(1, 0), (2, 100), (3, 200)]);
        let after = ordered(&[(1, 1024), (2, 1024), (3, 1024)], &[1, 2, 3], V6);
        assert_eq!(after, [(1, 1024), (2, 1124), (3, 1224)]);
    }

    #[test]
    fn what_is_in_order_stays() {
        for routes in [
            &[(1, 0), (2, 100)][..],
            &[(2, 100)],
            &[(1, 50), (2, 60), (9, 60), (1, 70)],
            &[(9, 0), (1, 0), (9, 0)],
            &[],
        ] {
            assert_eq!(moves(&table(routes), &[1, 2], V4), []);
            assert_eq!(moves(&table(routes), &[1, 1, 2, 1], V4), []);
        }
    }

    #[test]
    fn a_former_fall_back_and_a_new_network() {
        let after = ordered(&[(3, 0), (1, 100), (2, 200)], &[1, 2, 3], V4);
        assert_eq!(after, [(1, 0), (2, 100), (3, 200)]);
        let first = moves(&table(&[(3, 0), (1, 100)]), &[1, 3], V4).remove(0);
        assert_eq!(first.to, 100, "the one that makes place comes first");
    }

    #[test]
    fn the_place_of_others_is_kept() {
        // Behind the listed ones, and before them.
        let after = ordered(&[(2, 0), (9, 0), (1, 100)], &[1, 2], V4);
        assert_eq!(after, [(1, 0), (9, 0), (2, 100)]);
        let after = ordered(&[(9, 0), (2, 0), (1, 100), (9, 100)], &[1, 2], V4);
        assert_eq!(after, [(9, 0), (1, 0), (9, 100), (2, 101)]);
        // Where the same metric would mean half of the traffic each.
        let after = ordered(&[(9, 1024), (1, 1024), (9, 1123)], &[1], V6);
        assert_eq!(after, [(1, 1023), (9, 1024), (9, 1123)]);
        let after = ordered(&[(1, 1024), (2, 1024), (9, 1124)], &[1, 2], V6);
        assert_eq!(after, [(1, 1024), (9, 1124), (2, 1125)]);
    }

    #[test]
    fn several_routes_of_an_interface_stay_together() {
        let after = ordered(&[(2, 0), (2, 50), (2, 500), (1, 60)], &[1, 2], V4);
        assert_eq!(after, [(1, 0), (2, 100), (2, 100), (2, 500)]);
    }

    #[test]
    fn others_give_way_to_what_cannot_be_moved() {
        let mut routes = table(&[(1, 1024), (2, 1024)]);
        routes[0].fixed = true;
        let after = apply(&routes, &moves(&routes, &[1, 2], V6));
        assert_eq!((after[0].oif, after[1].metric), (1, 1124));
        let mut routes = table(&[(1, 1024), (2, 1024)]);
        routes[1].fixed = true;
        let after = apply(&routes, &moves(&routes, &[1, 2], V6));
        assert_eq!((after[0].metric, after[1].metric), (1023, 1024));
        assert_eq!(moves(&after, &[1, 2], V6), []);
    }

    fn any_routes() -> impl Strategy<Value = Vec<(u32, u32)>> {
        let metrics = vec![0, 1, 50, 99, 100, 101, 200, 1023, 1024, 1124, 1125, 5000];
        proptest::collection::vec((1..6u32, proptest::sample::select(metrics)), 0..9)
    }

    proptest! {
        #[test]
        fn any_routes_come_into_order(routes in any_routes(), six in any::<bool>()) {
            let (metrics, interfaces) = (if six { V6 } else { V4 }, [3, 1, 2]);
            let table = table(&routes);
            let after = apply(&table, &moves(&table, &interfaces, metrics));
            let best: Vec<u32> = interfaces
                .iter()
                .filter_map(|oif| after.iter().find(|r| r.oif == *oif))
                .map(|route| route.metric)
                .collect();
            prop_assert!(best.is_sorted_by(|a, b| a < b), "{:?}", after);
            let foreign = |table: &[Model]| -> Vec<Model> {
                table.iter().filter(|r| r.oif > 3).cloned().collect()
            };
            prop_assert_eq!(foreign(&table), foreign(&after));
            prop_assert_eq!(table.len(), after.len());
            prop_assert_eq!(moves(&after, &interfaces, metrics), []);
        }
    }
}
