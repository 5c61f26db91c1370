//! What the fuzzers drive: one plain function per target, from bytes to nothing, that panics where a promise is broken.
//!
//! `fuzz/fuzz_targets` wraps each for libFuzzer; this crate's tests run each over `fuzz/corpus` on the stable toolchain,
//! so that what a fuzzer found once is looked at in every test run. Targets assert more than that nothing panics: what is
//! written reads back, what is changed on the way is not believed, bounds hold, books balance.
//!
//! Not here: the code under test. Each target drives what production runs, with its keys, clock and store handed in; the
//! features `fuzzing` of the gateway and the LBS open their cores to this crate and to nothing that ships.
#![forbid(unsafe_code)]

/// Where a fault is planted to see that it is found: panics if all steps are true, in builds with the feature `planted-panic`. Each
/// step is a branch of its own, so that a fuzzer sees which were taken, as it does in real code.
macro_rules! planted {
    ($target:literal, [$($step:expr),+ $(,)?]) => {
        if cfg!(feature = "planted-panic") {
            planted!(@ $target $(, $step)+);
        }
    };
    (@ $target:literal, $step:expr $(, $rest:expr)*) => {
        if std::hint::black_box($step) {
            planted!(@ $target $(, $rest)*);
        }
    };
    (@ $target:literal) => {
        unreachable!("the panic planted in {} was reached", $target)
    };
}

mod ailing;
mod directory;
mod frames;
mod hello;
mod lbs;
mod messages;
mod node;
mod records;
mod requests;
mod session;
mod source;

/// A fuzz target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: of the libFuzzer binary and of its corpus' folder.
    pub name: &'static str,
    /// Runs one input.
    pub run: fn(&[u8]),
    /// Inputs to begin with, made by the encoders of production, so that little is left to luck.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 8] = [
    Target {
        name: "hello",
        run: hello::hello,
        seeds: hello::seeds,
    },
    Target {
        name: "records",
        run: records::records,
        seeds: records::seeds,
    },
    Target {
        name: "frames",
        run: frames::frames,
        seeds: frames::seeds,
    },
    Target {
        name: "messages",
        run: messages::messages,
        seeds: messages::seeds,
    },
    Target {
        name: "requests",
        run: requests::requests,
        seeds: requests::seeds,
    },
    Target {
        name: "session",
        run: session::session,
        seeds: session::seeds,
    },
    Target {
        name: "directory",
        run: directory::directory,
        seeds: directory::seeds,
    },
    Target {
        name: "lbs",
        run: lbs::lbs,
        seeds: lbs::seeds,
    },
];

/// Runs one input of the target of this name.
///
/// # Panics
/// When there is no such target, or the input breaks a promise.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.expect("every fuzz target's binary names a target of this crate");
    (target.run)(data);
}
