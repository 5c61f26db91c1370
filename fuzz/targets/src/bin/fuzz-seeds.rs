//! `fuzz-seeds FOLDER`: writes every target's seeds into `FOLDER/<target>/`, each under the hash of its bytes.
#![forbid(unsafe_code)]

use std::{fs, io, path::Path};

use aws_lc_rs::digest;
use whimbrel_fuzz_targets::TARGETS;

fn main() -> io::Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .ok_or_else(|| io::Error::other("expected a folder: fuzz-seeds FOLDER"))?;
    for target in TARGETS {
        let corpus = Path::new(&folder).join(target.name);
        fs::create_dir_all(&corpus)?;
        for seed in (target.seeds)() {
            let hash = digest::digest(&digest::SHA256, &seed);
            fs::write(
                corpus.join(data_encoding::HEXLOWER.encode(&hash.as_ref()[..16])),
                seed,
            )?;
        }
    }
    Ok(())
}
