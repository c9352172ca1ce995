//! How a crate plants bugs in itself, for the simulator in `tests` to find: the same way in each.

/// `plant` and `planted` for the bugs of type `$bug` (`Copy`, `PartialEq`), in the module that calls this. Both are of
/// the caller's feature `planted-bugs`: without it `planted` is the constant `false`, and there is no `plant`.
#[macro_export]
macro_rules! planted_bugs {
    ($bug:ty) => {
        #[cfg(feature = "planted-bugs")]
        thread_local! {
            static PLANTED: std::cell::Cell<Option<$bug>> = const { std::cell::Cell::new(None) };
        }

        /// Plants a bug in this thread, or takes it out.
        #[cfg(feature = "planted-bugs")]
        pub fn plant(bug: Option<$bug>) {
            PLANTED.set(bug);
        }

        /// Whether a bug is planted here.
        #[cfg(feature = "planted-bugs")]
        pub(crate) fn planted(bug: $bug) -> bool {
            PLANTED.get() == Some(bug)
        }

        /// Whether a bug is planted here: never.
        #[cfg(not(feature = "planted-bugs"))]
        pub(crate) const fn planted(_: $bug) -> bool {
            false
        }
    };
}
