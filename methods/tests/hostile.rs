//! Hostile files: whatever the bytes of a checkpoint, tensor file, data set, shard, configuration, manifest, metrics or
//! fingerprint file are, reading them ends in a value or an error, without a panic and without an allocation that the
//! size of the file does not justify.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use selfsame_data::{Split, open, shards};
use selfsame_engine::{Array, DType, Device, TensorFile};
use selfsame_methods::run::{
    CheckpointStore, Fingerprint, FingerprintWriter, MetricsWriter, RunDir, fingerprints, metrics,
};
use selfsame_methods::{METHODS, settings};

/// The largest allocation so far.
static LARGEST: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, with an eye on sizes.
struct Watched;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// Far above what reading the small files of these tests needs (a buffer of a MiB), far below what a length read from a
/// file could ask for.
const BOUND: usize = 64 << 20;

/// A damage to a file.
#[derive(Clone, Debug)]
enum Damage {
    /// Other bytes altogether.
    Replace(Vec<u8>),
    /// Bytes written over those from a place on.
    Overwrite(usize, Vec<u8>),
    /// Bytes put in at a place.
    Insert(usize, Vec<u8>),
    /// The rest from a place on is gone.
    Cut(usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    // Lengths that a parser might believe, beside any bytes.
    let lengths = prop_oneof![Just(u64::MAX), Just(i64::MAX as u64), Just(1 << 40), Just(1 << 31), any::<u64>()];
    let bytes = || {
        let written = lengths.clone().prop_map(|length| length.to_le_bytes().to_vec());
        // As bincode writes a length beyond 65,535: a mark, then four bytes.
        let marked = any::<u32>().prop_map(|length| [&[0xfc][..], &length.to_le_bytes()].concat());
        prop_oneof![prop::collection::vec(any::<u8>(), 0..40), written, marked]
    };
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Damage::Replace),
        (any::<usize>(), bytes()).prop_map(|(at, bytes)| Damage::Overwrite(at, bytes)),
        (any::<usize>(), bytes()).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        any::<usize>().prop_map(Damage::Cut),
    ]
}

impl Damage {
    fn to(&self, good: &[u8]) -> Vec<u8> {
        let mut bytes = good.to_vec();
        let place = |at: &usize| at % (good.len() + 1);
        match self {
            Damage::Replace(other) => return other.clone(),
            Damage::Overwrite(at, other) => {
                for (byte, other) in bytes[place(at)..].iter_mut().zip(other) {
                    *byte = *other;
                }
            }
            Damage::Insert(at, other) => drop(bytes.splice(place(at)..place(at), other.iter().copied())),
            Damage::Cut(at) => bytes.truncate(place(at)),
        }
        bytes
    }
}

/// Writes the file `name`, damaged, and reads it; the outcome of reading is the reader's business.
fn read_damaged(good: &[u8], damage: &Damage, name: &str, read: impl FnOnce(&Path)) -> Result<(), TestCaseError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().expect("a file in the folder")).unwrap();
    fs::write(&path, damage.to(good)).unwrap();
    read(&path);
    let largest = LARGEST.load(Ordering::Relaxed);
    prop_assert!(largest < BOUND, "an allocation of {largest} bytes");
    Ok(())
}

fn tensor_file() -> Vec<u8> {
    let device = Device::cpu_with(1).unwrap();
    let x = Array::from_slice(&[1.5f32, -2.0, 0.0, 7.0], &[2, 2], &device).unwrap();
    let mask = Array::zeros(&[3], DType::Bool, &device).unwrap();
    let metadata = [("step".to_string(), "7".to_string())].into();
    TensorFile { tensors: [("x".into(), x), ("mask".into(), mask)].into(), metadata }.to_bytes().unwrap()
}

/// Names and contents.
type Files = Vec<(&'static str, Vec<u8>)>;

/// Readers of published formats: the kind, and the smallest good files of its training images.
fn data_sets() -> [(&'static str, Files); 4] {
    let record = |labels: usize| vec![1; labels + 3 * 32 * 32];
    let batches = ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
    let mut cifar: Files = batches.map(|name| (name, record(1))).into();
    cifar.push(("batches.meta.txt", "a b c d e f g h i j".replace(' ', "\n").into_bytes()));
    let header = |axes: &[u8]| -> Vec<u8> {
        [0, 0, 8, axes.len() as u8].into_iter().chain(axes.iter().flat_map(|&axis| [0, 0, 0, axis])).collect()
    };
    let (images, labels) = ([header(&[2, 3, 4]), vec![9; 24]].concat(), [header(&[2]), vec![0, 1]].concat());
    [
        ("cifar10", cifar),
        ("cifar100", vec![("train.bin", record(2))]),
        ("stl10", vec![("train_X.bin", vec![1; 3 * 96 * 96]), ("train_y.bin", vec![10])]),
        ("idx", vec![("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels)]),
    ]
}

/// Opens a data set and reads what it says it has.
fn read_data(spec: &str) -> Result<(), TestCaseError> {
    if let Ok(data) = open(spec, Split::Train) {
        (0..data.len().min(9)).for_each(|image| drop(data.get(image)));
        prop_assert!(data.get(data.len()).is_err());
    }
    let largest = LARGEST.load(Ordering::Relaxed);
    prop_assert!(largest < BOUND, "an allocation of {largest} bytes");
    Ok(())
}

#[test]
fn undamaged_data_sets_are_read() {
    for (kind, files) in data_sets() {
        let folder = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, bytes)| fs::write(folder.path().join(name), bytes).unwrap());
        let data = open(&format!("{kind}:{}", folder.path().display()), Split::Train).unwrap();
        assert!(data.get(data.len() - 1).is_ok());
    }
}

fn lines(write: impl FnOnce(PathBuf)) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines");
    write(path.clone());
    fs::read(path).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tensor_files(damage in damage()) {
        let device = Device::cpu_with(1).unwrap();
        read_damaged(&tensor_file(), &damage, "x.safetensors", |path| drop(TensorFile::read(path, &device)))?;
    }

    #[test]
    fn checkpoints(damage in damage()) {
        let folder = tempfile::tempdir().unwrap();
        let path = CheckpointStore::open(folder.path(), 1).unwrap().save(7, &tensor_file()).unwrap();
        let good = fs::read(path).unwrap();
        read_damaged(&good, &damage, "step-000000000007.ckpt", |path| {
            let store = CheckpointStore::at(path.parent().expect("its folder"));
            // What it accepts is what was saved.
            if let Ok(checkpoint) = store.load(7) {
                assert!(checkpoint.payload == tensor_file());
            }
            drop(store.latest());
        })?;
    }

    #[test]
    fn metrics_files(damage in damage()) {
        let good = lines(|path| {
            let mut writer = MetricsWriter::create(path).unwrap();
            (1..4).for_each(|step| writer.write(step, &[("loss", 1.5), ("grad/norm", f64::NAN)]).unwrap());
            writer.warn(3, "a text").unwrap();
        });
        read_damaged(&good, &damage, "metrics.jsonl", |path| {
            drop(metrics::read(path));
            if MetricsWriter::resume(path, 2).is_ok() {
                assert!(metrics::read(path).unwrap().iter().all(|record| record.step <= 2));
            }
        })?;
    }

    #[test]
    fn fingerprint_files(damage in damage()) {
        let good = lines(|path| {
            let mut writer = FingerprintWriter::create(path).unwrap();
            writer.write(Fingerprint::first(0, fingerprints::Digest(1))).unwrap();
            for step in 1..4 {
                let work = Some(fingerprints::Work::default());
                writer.write(Fingerprint { step, work, ..Fingerprint::default() }).unwrap();
            }
        });
        read_damaged(&good, &damage, "fingerprints.jsonl", |path| {
            drop(fingerprints::read(path));
            drop(FingerprintWriter::resume(path, 2));
        })?;
    }

    #[test]
    fn run_directories(damage in damage(), which in 0..2usize) {
        let config = settings::defaults(METHODS[0]).unwrap().table().to_string();
        let manifest = r#"{"version":"0.1.0","method":"simclr","seed":1,"numerics":"strict","data":"scenes",
            "data_checksum":null,"weights_hash":null,"sessions":[]}"#;
        let (name, good) = [("config.toml", config.as_str()), ("manifest.json", manifest)][which];
        read_damaged(good.as_bytes(), &damage, name, |path| {
            drop(settings::resolve(METHODS[0], Some(path), &[]));
            let folder = path.parent().expect("its folder");
            let config = folder.join("config.toml");
            if !config.exists() {
                fs::write(config, "").unwrap();
            }
            let dir = RunDir::open(folder).unwrap();
            drop((dir.read_config(), dir.read_manifest()));
            drop(selfsame_methods::replay::Recorded::open(folder, METHODS));
        })?;
    }

    #[test]
    fn settings_of_the_command_line(key in 0..100usize, text in any::<String>()) {
        let mut config = settings::defaults(METHODS[0]).unwrap();
        drop(config.apply_setting(&text));
        let known = config.entries()[key % config.entries().len()].key.clone();
        drop(config.apply_setting(&format!("{known}={text}")));
        // Whatever was taken is a configuration that can be written and read.
        prop_assert!(config.table().to_string().parse::<toml::Table>().is_ok());
    }

    /// The checksum is made to hold again, so that the index itself is what is parsed.
    #[test]
    fn shards_whose_checksum_holds(damage in damage(), is_index in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let packed = shards::pack(&*open("scenes:train=3,test=1", Split::Train).unwrap(), folder.path(), 8).unwrap();
        let good = fs::read(&packed[0]).unwrap();
        let pixels = u64::from_le_bytes(good[12..20].try_into().unwrap()) as usize;
        let from = if is_index { 36 + pixels } else { 0 };
        let mut bytes = good[..from].to_vec();
        bytes.extend(damage.to(&good[from..]));
        if bytes.len() >= 36 {
            let index = bytes.len().saturating_sub(36 + pixels) as u64;
            bytes[20..28].copy_from_slice(&index.to_le_bytes());
            let sum = xxhash_rust::xxh3::xxh3_64(&bytes[36..]);
            bytes[28..36].copy_from_slice(&sum.to_le_bytes());
        }
        fs::write(&packed[0], bytes).unwrap();
        read_data(&format!("shards:{}", folder.path().display()))?;
    }

    #[test]
    fn data_sets_of_published_formats(damage in damage(), kind in 0..4usize, file in any::<prop::sample::Index>()) {
        let (kind, files) = data_sets()[kind].clone();
        let folder = tempfile::tempdir().unwrap();
        let damaged = file.index(files.len());
        for (number, (name, good)) in files.iter().enumerate() {
            let bytes = if number == damaged { damage.to(good) } else { good.clone() };
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        read_data(&format!("{kind}:{}", folder.path().display()))?;
    }

    /// Sizes of any header under a right checksum, before data that cannot fill them.
    #[test]
    fn pictures_that_announce_any_size(
        width in 1..20_000u32,
        height in 1..20_000u32,
        colour in 0..4usize,
        data in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        use png::ColorType::{Grayscale, GrayscaleAlpha, Rgb, Rgba};
        let folder = tempfile::tempdir().unwrap();
        let mut encoder = png::Encoder::new(fs::File::create(folder.path().join("a.png")).unwrap(), width, height);
        encoder.set_color([Grayscale, GrayscaleAlpha, Rgb, Rgba][colour]);
        encoder.write_header().unwrap().write_chunk(png::chunk::IDAT, &data).unwrap();
        read_data(&format!("folder:{}", folder.path().display()))?;
    }

    /// No specification makes a reader panic; paths are the user's, and no file names another.
    #[test]
    fn specifications_of_data(kind in 0..selfsame_data::KINDS.len(), options in "[a-z]{0,7}[=,.0-9]{0,12}|.{0,20}") {
        drop(open(&options, Split::Train));
        drop(open(&format!("{}:{options}", selfsame_data::KINDS[kind].0), Split::Train));
    }
}
