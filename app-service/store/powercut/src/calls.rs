//! libc's file calls, as the process under test finds them.
//!
//! Each passes on to the kernel by `syscall`, so it neither looks up nor calls the function that it replaces. Only
//! the `*at` forms exist on every architecture, so they are what is called. The contract of each function is the
//! manual page of the one that it replaces.
#![expect(
    unsafe_code,
    reason = "replaces C functions: raw pointers from C callers are passed on and read"
)]
#![expect(unreachable_pub, reason = "C callers reach them by name")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::MutexGuard;

use libc::{AT_FDCWD, AT_REMOVEDIR, O_CREAT, O_TRUNC, iovec, mode_t, off_t, size_t, ssize_t};

use crate::recorder::{self, MAKE_FOLDER, REMOVE_FILE, REMOVE_FOLDER, Recorder, SET_LEN, SYNC, WRITE};

/// Appends `record` to the log at `path`, opened on first use into `log`, without any recorded call.
pub(crate) fn append(log: &mut Option<c_int>, path: &[u8], mut record: &[u8]) -> bool {
    let fd = match *log {
        Some(fd) => fd,
        None => {
            let Ok(path) = CString::new(path) else {
                return false;
            };
            let flags = libc::O_WRONLY | O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
            // SAFETY: `path` is a valid C string for the length of the call.
            let fd = unsafe { libc::syscall(libc::SYS_openat, AT_FDCWD, path.as_ptr(), flags, 0o600) };
            let Ok(fd @ 0..) = c_int::try_from(fd) else {
                return false;
            };
            *log.insert(fd)
        }
    };
    while !record.is_empty() {
        // SAFETY: pointer and length are of a live slice.
        let written = unsafe { libc::syscall(libc::SYS_write, fd, record.as_ptr(), record.len()) };
        match usize::try_from(written) {
            Ok(written @ 1..) => record = &record[written..],
            _ => return false,
        }
    }
    true
}

/// SAFETY (of callers): `path` is null or a C string that lives for `'a`.
unsafe fn bytes<'a>(path: *const c_char) -> &'a [u8] {
    if path.is_null() {
        return b"";
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(path) }.to_bytes()
}

/// The recorder, told that a call on an open file begins.
fn begin_on_file(fd: c_int) -> Option<MutexGuard<'static, Recorder>> {
    let mut recorder = recorder::lock()?;
    recorder.begin_on_file(fd);
    Some(recorder)
}

/// The recorder, told that a call on a path begins.
///
/// SAFETY (of callers): `path` is null or a C string.
unsafe fn begin_on_path(at: c_int, path: *const c_char) -> Option<MutexGuard<'static, Recorder>> {
    let mut recorder = recorder::lock()?;
    // SAFETY: the caller's promise.
    let path = recorder.absolute(at, unsafe { bytes(path) });
    recorder.begin_on_path(path.as_deref());
    Some(recorder)
}

/// SAFETY (of callers): as `openat(2)`.
unsafe fn open_recorded(at: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the caller passes a C string.
    let mut recorder = unsafe { begin_on_path(at, path) };
    // SAFETY: the arguments are the caller's own.
    let fd = unsafe { libc::syscall(libc::SYS_openat, at, path, flags, mode) } as c_int;
    if fd >= 0
        && let Some(recorder) = &mut recorder
    {
        // SAFETY: the kernel has just read it as a C string.
        let path = recorder.absolute(at, unsafe { bytes(path) });
        let creates = u64::from(flags & O_CREAT != 0);
        let truncates = u64::from(flags & O_TRUNC != 0);
        recorder.opened(fd, path, creates | truncates << 1);
    }
    fd
}

// `mode` is a variadic argument of the originals. Integers travel alike in both conventions on the Linux
// architectures, and the kernel ignores it when the flags do not ask for it.

#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: as the caller's call.
    unsafe { open_recorded(AT_FDCWD, path, flags, mode) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: as the caller's call.
    unsafe { open_recorded(AT_FDCWD, path, flags, mode) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(at: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: as the caller's call.
    unsafe { open_recorded(at, path, flags, mode) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(at: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: as the caller's call.
    unsafe { open_recorded(at, path, flags, mode) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    if let Some(mut recorder) = recorder::lock() {
        recorder.closed(fd);
    }
    // SAFETY: as the caller's call.
    unsafe { libc::syscall(libc::SYS_close, fd) as c_int }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, data: *const c_void, len: size_t) -> ssize_t {
    let recorder = begin_on_file(fd);
    // SAFETY: as the caller's call.
    let written = unsafe { libc::syscall(libc::SYS_write, fd, data, len) } as ssize_t;
    if let (Some(mut recorder), Ok(count @ 1..)) = (recorder, usize::try_from(written))
        && recorder.is_recorded(fd)
    {
        // Behind the write, also when the file was opened for appending.
        // SAFETY: asks for the position only.
        let end = unsafe { libc::syscall(libc::SYS_lseek, fd, 0, libc::SEEK_CUR) };
        if let Ok(end @ 0..) = u64::try_from(end) {
            // SAFETY: the kernel has just read `count` bytes from there.
            let data = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), count) };
            recorder.on_file(WRITE, fd, end - count as u64, data);
        }
    }
    written
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    // A short write is allowed, so writing the first part that holds anything is a correct writev.
    for i in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the caller passes `count` of them.
        let part = unsafe { *parts.add(i) };
        if part.iov_len > 0 {
            // SAFETY: as the caller's call.
            return unsafe { write(fd, part.iov_base, part.iov_len) };
        }
    }
    0
}

/// SAFETY (of callers): as `pwrite(2)`.
unsafe fn pwrite_recorded(fd: c_int, data: *const c_void, len: size_t, at: off_t) -> ssize_t {
    let recorder = begin_on_file(fd);
    // SAFETY: as the caller's call.
    let written = unsafe { libc::syscall(libc::SYS_pwrite64, fd, data, len, at) } as ssize_t;
    if let (Some(mut recorder), Ok(count @ 1..)) = (recorder, usize::try_from(written)) {
        // SAFETY: the kernel has just read `count` bytes from there.
        let data = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), count) };
        recorder.on_file(WRITE, fd, at as u64, data);
    }
    written
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(fd: c_int, data: *const c_void, len: size_t, at: off_t) -> ssize_t {
    // SAFETY: as the caller's call.
    unsafe { pwrite_recorded(fd, data, len, at) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, data: *const c_void, len: size_t, at: off_t) -> ssize_t {
    // SAFETY: as the caller's call.
    unsafe { pwrite_recorded(fd, data, len, at) }
}

/// SAFETY (of callers): `call` is the number of `fsync` or `fdatasync`.
unsafe fn sync_recorded(call: libc::c_long, fd: c_int) -> c_int {
    let recorder = begin_on_file(fd);
    // SAFETY: takes a descriptor and nothing else.
    let result = unsafe { libc::syscall(call, fd) } as c_int;
    if result == 0
        && let Some(mut recorder) = recorder
    {
        recorder.on_file(SYNC, fd, 0, b"");
    }
    result
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    // SAFETY: the number is fsync's.
    unsafe { sync_recorded(libc::SYS_fsync, fd) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    // SAFETY: the number is fdatasync's.
    unsafe { sync_recorded(libc::SYS_fdatasync, fd) }
}

fn set_len_recorded(fd: c_int, len: off_t) -> c_int {
    let recorder = begin_on_file(fd);
    // SAFETY: takes two numbers.
    let result = unsafe { libc::syscall(libc::SYS_ftruncate, fd, len) } as c_int;
    if result == 0
        && let Some(mut recorder) = recorder
    {
        recorder.on_file(SET_LEN, fd, len as u64, b"");
    }
    result
}

#[unsafe(no_mangle)]
pub extern "C" fn ftruncate(fd: c_int, len: off_t) -> c_int {
    set_len_recorded(fd, len)
}

#[unsafe(no_mangle)]
pub extern "C" fn ftruncate64(fd: c_int, len: off_t) -> c_int {
    set_len_recorded(fd, len)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn renameat(
    from_at: c_int,
    from: *const c_char,
    to_at: c_int,
    to: *const c_char,
) -> c_int {
    // SAFETY: the caller passes C strings.
    let recorder = unsafe { begin_on_path(from_at, from) };
    // SAFETY: as the caller's call.
    let result = unsafe { libc::syscall(libc::SYS_renameat2, from_at, from, to_at, to, 0) } as c_int;
    if result == 0
        && let Some(mut recorder) = recorder
    {
        // SAFETY: the kernel has just read both as C strings.
        let (from, to) = unsafe { (bytes(from), bytes(to)) };
        let (from, to) = (recorder.absolute(from_at, from), recorder.absolute(to_at, to));
        recorder.renamed(from, to);
    }
    result
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: as the caller's call.
    unsafe { renameat(AT_FDCWD, from, AT_FDCWD, to) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlinkat(at: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the caller passes a C string.
    let recorder = unsafe { begin_on_path(at, path) };
    // SAFETY: as the caller's call.
    let result = unsafe { libc::syscall(libc::SYS_unlinkat, at, path, flags) } as c_int;
    if result == 0
        && let Some(mut recorder) = recorder
    {
        // SAFETY: the kernel has just read it as a C string.
        let path = recorder.absolute(at, unsafe { bytes(path) });
        let kind = if flags & AT_REMOVEDIR != 0 {
            REMOVE_FOLDER
        } else {
            REMOVE_FILE
        };
        recorder.on_path(kind, path);
    }
    result
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: as the caller's call.
    unsafe { unlinkat(AT_FDCWD, path, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmdir(path: *const c_char) -> c_int {
    // SAFETY: as the caller's call.
    unsafe { unlinkat(AT_FDCWD, path, AT_REMOVEDIR) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: the caller passes a C string.
    let recorder = unsafe { begin_on_path(AT_FDCWD, path) };
    // SAFETY: as the caller's call.
    let result = unsafe { libc::syscall(libc::SYS_mkdirat, AT_FDCWD, path, c_uint::from(mode)) } as c_int;
    if result == 0
        && let Some(mut recorder) = recorder
    {
        // SAFETY: the kernel has just read it as a C string.
        let path = recorder.absolute(AT_FDCWD, unsafe { bytes(path) });
        recorder.on_path(MAKE_FOLDER, path);
    }
    result
}
