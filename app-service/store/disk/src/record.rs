//! The recorder's log, read back. The format is documented in `whimbrel-powercut`.

use std::path::Path;

/// One thing that the process under test did.
#[derive(Debug)]
pub(crate) enum Record {
    Open {
        handle: u32,
        path: String,
        creates: bool,
        truncates: bool,
    },
    Write {
        handle: u32,
        offset: u64,
        data: Vec<u8>,
    },
    Sync {
        handle: u32,
    },
    SetLen {
        handle: u32,
        len: u64,
    },
    Rename {
        from: String,
        to: String,
    },
    RemoveFile {
        path: String,
    },
    MakeFolder {
        path: String,
    },
    RemoveFolder {
        path: String,
    },
}

/// The whole log. A last record that was cut off is left out.
pub(crate) fn read_log(path: &Path) -> Vec<Record> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = &bytes[..];
    let mut records = Vec::new();
    while let Some((head, tail)) = rest.split_first_chunk::<17>() {
        let handle = u32::from_le_bytes(head[1..5].try_into().unwrap());
        let number = u64::from_le_bytes(head[5..13].try_into().unwrap());
        let len = u32::from_le_bytes(head[13..17].try_into().unwrap()) as usize;
        let Some((data, tail)) = tail.split_at_checked(len) else {
            break;
        };
        let text = || String::from_utf8(data.to_vec()).unwrap();
        records.push(match head[0] {
            1 => Record::Open {
                handle,
                path: text(),
                creates: number & 1 != 0,
                truncates: number & 2 != 0,
            },
            2 => Record::Write {
                handle,
                offset: number,
                data: data.to_vec(),
            },
            3 => Record::Sync { handle },
            4 => Record::SetLen { handle, len: number },
            5 => {
                let both = text();
                let (from, to) = both.split_once('\0').unwrap();
                Record::Rename {
                    from: from.to_owned(),
                    to: to.to_owned(),
                }
            }
            6 => Record::RemoveFile { path: text() },
            7 => Record::MakeFolder { path: text() },
            8 => Record::RemoveFolder { path: text() },
            kind => panic!("unknown record {kind}"),
        });
        rest = tail;
    }
    records
}
