//! The configurations, by type.

mod bridge;

/// A test for each configuration: its name, and an expression that makes it.
macro_rules! cases {
    ($($name:ident => $case:expr;)+) => {
        $(#[test]
        fn $name() {
            let case: $crate::script::Case = $case(stringify!($name));
            case.run();
        })+
    };
}
pub(crate) use cases;
