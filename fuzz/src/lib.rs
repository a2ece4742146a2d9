//! Drives fuzz targets on the stable compiler: a target is a test beside the format that it attacks, which knows the
//! private reader and states the property; this crate feeds it.
//!
//! [`run`] gives a target all inputs of `fuzz/seeds/<target>/`, then mutations of them for [`TIME`] seconds. The inputs
//! follow from one number, so a failure can be had again: it is printed, and the input is kept as
//! `fuzz/seeds/<target>/found-<hash>`, to be committed with the fix. There is no coverage to steer by; the seeds are
//! chosen to stand in each branch of their format.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The environment variable with the seconds that each target may take (a decimal number; 3 by default).
pub const TIME: &str = "PODD_FUZZ_SECONDS";
/// The environment variable with the number that all inputs follow from; by default another one each day.
pub const SEED: &str = "PODD_FUZZ_SEED";

const DEFAULT_SECONDS: f64 = 6.0;
/// Longest input, in bytes.
const LONGEST: usize = 64 << 10;
/// Most mutations of one input.
const CHANGES: u64 = 8;

/// Feeds a target. It panics where its property does not hold.
///
/// # Panics
/// With the target's panic, after saying how to have it again. Also when the target has no seeds.
pub fn run(target: &str, property: impl Fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let mut corpus = read(&directory);
    assert!(!corpus.is_empty(), "{target} has no seeds in {}", directory.display());
    let attempt = |input: &[u8], what: &str| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| property(input))) {
            let file = directory.join(format!("found-{:016x}", hash(input)));
            let kept = fs::write(&file, input);
            eprintln!("{target}: the property fails for {what}; the input is in {} ({kept:?})", file.display());
            resume_unwind(panic);
        }
    };
    for (file, input) in &corpus {
        attempt(input, &file.display().to_string());
    }
    corpus.push((PathBuf::new(), Vec::new()));
    let variable = |name: &str| std::env::var(name).ok();
    let seconds = variable(TIME).map_or(DEFAULT_SECONDS, |text| text.parse().expect("PODD_FUZZ_SECONDS is a number"));
    let seed = match variable(SEED) {
        Some(text) => text.parse().expect("PODD_FUZZ_SEED is a number"),
        None => std::time::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_secs() / 86_400),
    };
    let mut random = Random(seed ^ hash(target.as_bytes()));
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut inputs = 0_u64;
    while Instant::now() < end {
        let input = mutate(&corpus, &mut random);
        attempt(&input, &format!("input {inputs} of {SEED}={seed}"));
        inputs += 1;
    }
    println!("{target}: {} seeds, {inputs} inputs of {SEED}={seed}", corpus.len() - 1);
}

/// Cuts an input into pieces, as reads would: the sizes follow from the input.
pub fn pieces(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut random = Random(hash(input));
    let mut rest = input;
    std::iter::from_fn(move || {
        let size = match random.below(4) {
            0 => 1,
            1 => 1 + random.below(16),
            _ => 1 + random.below(5000),
        };
        let (piece, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Seeds in the order of their names, so that inputs follow from the number alone.
fn read(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let mut files: Vec<_> = entries.filter_map(|entry| Some((entry.path(), fs::read(entry.path()).ok()?))).collect();
    files.sort();
    files
}

fn mutate(corpus: &[(PathBuf, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let pick = |random: &mut Random| &corpus[random.below(corpus.len())].1;
    let mut input = pick(random).clone();
    for _ in 0..1 + random.next() % CHANGES {
        let at = random.below(input.len() + 1);
        match random.below(9) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next().to_le_bytes()[0],
            2 if at < input.len() => {
                let end = (at + 1 + random.below(16)).min(input.len());
                input.drain(at..end);
            }
            3 => input.insert(at, random.next().to_le_bytes()[0]),
            4 => input.truncate(at),
            5 => {
                // A number that is a border somewhere, in either order and several widths.
                let numbers =
                    [0_u64, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0xff_ffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];
                let number = numbers[random.below(numbers.len())];
                let width = [1, 2, 3, 4, 8][random.below(5)];
                let bytes = match random.below(2) {
                    0 => number.to_be_bytes()[8 - width..].to_vec(),
                    _ => number.to_le_bytes()[..width].to_vec(),
                };
                let end = (at + width).min(input.len());
                input.splice(at..end, bytes);
            }
            6 => {
                let other = pick(random);
                let from = random.below(other.len() + 1);
                let length = random.below(other.len() - from + 1);
                let part = other[from..from + length].to_vec();
                input.splice(at..at, part);
            }
            7 => {
                let part = input[at..(at + 1 + random.below(64)).min(input.len())].to_vec();
                let times = 1 + random.below(50);
                input.splice(at..at, part.repeat(times));
            }
            _ => {
                let other = pick(random);
                let from = random.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input.truncate(LONGEST);
    input
}

/// SplitMix64: small, and good enough to choose by.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or(0)
    }
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_follow_from_the_number_and_pieces_are_the_whole() {
        let corpus = [(PathBuf::new(), b"some seed".to_vec()), (PathBuf::new(), vec![0; 300])];
        let inputs = |seed| {
            let mut random = Random(seed);
            (0..500).map(|_| mutate(&corpus, &mut random)).collect::<Vec<_>>()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
        for input in inputs(3) {
            assert_eq!(pieces(&input).collect::<Vec<_>>().concat(), input);
        }
    }

    #[test]
    fn a_target_that_fails_says_so() {
        let failed = catch_unwind(|| run("driver", |input| assert!(input.len() < 3, "too long")));
        assert!(failed.is_err());
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds/driver");
        let found: Vec<_> =
            read(&directory).into_iter().filter(|(file, _)| file.to_string_lossy().contains("found")).collect();
        assert_eq!(found.len(), 1, "it is kept");
        fs::remove_file(&found[0].0).expect("remove what this test made");
    }
}
