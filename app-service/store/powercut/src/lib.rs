//! A recorder for power-cut tests, preloaded (`LD_PRELOAD`) into a process that writes files.
//!
//! It stands between the process and libc's file calls. Each call is passed on, and when it succeeded and concerns a
//! file under `WHIMBREL_POWERCUT_ROOT`, it is appended to the log named by `WHIMBREL_POWERCUT_LOG`. One lock is
//! held over the call and its record, so the log's order is the order in which things happened. A test then replays any
//! beginning of the log into a model of a disk and asks what a power cut at that point could have left.
//!
//! Before each such call stands a record that it begins: a process that is killed between a call and its record leaves that
//! one last, and its files may hold what the log does not.
//!
//! What a process does past libc's symbols (raw system calls, `mmap`) is not seen. The test notices: replaying
//! the whole log must give exactly the files that are there.
//!
//! The log is a sequence of records, little-endian: `kind u8 | handle u32 | number u64 | length u32 | bytes`.
//!
//! | kind | handle | number | bytes |
//! |---|---|---|---|
//! | 1 open | new | 1: may create, 2: truncates, 3: both | path |
//! | 2 write | of the file | offset | data |
//! | 3 sync | of the file or folder | | |
//! | 4 set length | of the file | length | |
//! | 5 rename | | | from, zero byte, to |
//! | 6 remove file | | | path |
//! | 7 make folder | | | path |
//! | 8 remove folder | | | path |
//! | 9 a call begins | | | |
//!
//! Paths are relative to the root. This crate is part of tests only.

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod recorder;
