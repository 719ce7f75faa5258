//! A folder of JPEG and PNG files.
//!
//! Layouts, told apart by what is there:
//! - `DIR/train/CLASS/*.jpg` and `DIR/test/CLASS/*.jpg` (or `val`): the splits as given.
//! - `DIR/CLASS/*.jpg`: one image in [`HOLD_OUT`] of each class is held out for testing.
//! - `DIR/*.jpg`: unlabelled; every image is for training, there is no test split.
//!
//! Classes and files are sorted by name, byte by byte. Files whose names end in something other than `.jpg`, `.jpeg` or
//! `.png`, and names that begin with a dot, are passed over. Images keep their own sizes.
//!
//! The checksum is over content, so that an image which was changed in its place is noticed. It reads every file of the
//! split once, the first time that somebody asks: as long as an epoch takes to read, and nothing where nobody does.

use super::decode::decode;
use crate::dataset::{Dataset, DatasetInfo, Sample, Split, check_index};
use selfsame_engine::{Error, ErrorKind, Result};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Without a `test` folder, images 4, 9, 14 … of each class (in order of name) are held out.
pub const HOLD_OUT: usize = 5;

/// The longest image file that is read, in bytes.
const MAX_FILE: u64 = 1 << 30;

/// Files that are read at a time for the checksum: a disk or a network is faster with several requests. Each takes a
/// buffer of [`BUFFER`] bytes.
const READERS: usize = 8;
const BUFFER: usize = 1 << 16;

/// A folder of images.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    split: Split,
    files: Vec<(PathBuf, Option<u32>)>,
    classes: Vec<String>,
    checksum: OnceLock<u64>,
}

impl Folder {
    /// The images of `dir`, in one of the layouts above. Files are listed now and decoded when asked for.
    ///
    /// An error when the folder is missing or has no images, a class folder has none, a test class is unknown to the
    /// training images, or a file may not be read.
    pub fn open(dir: &Path, split: Split) -> Result<Folder> {
        let listing = List::read(dir)?;
        let test = ["test", "val"].into_iter().find(|name| listing.folders.iter().any(|folder| folder == name));
        let has_train = listing.folders.iter().any(|folder| folder == "train");
        let (files, classes) = match (has_train, test, split) {
            (true, None, Split::Test) => {
                return Err(Error::new(ErrorKind::Io, dir.display().to_string(), "a folder train, but no test or val")
                    .hint("add one, or give the folder train itself to have images held out"));
            }
            (true, Some(test), Split::Test) => {
                let (_, classes) = gather(&dir.join("train"))?;
                let (mut files, test_classes) = gather(&dir.join(test))?;
                relabel(&mut files, &test_classes, &classes, &dir.join(test))?;
                (files, classes)
            }
            (true, _, Split::Train | Split::Unlabelled) => gather(&dir.join("train"))?,
            (false, _, _) => {
                let (files, classes) = gather(dir)?;
                (hold_out(files, split, dir)?, classes)
            }
        };
        // What may not be read is said now, not in the middle of a run.
        for (path, _) in &files {
            File::open(path).map_err(|error| Error::io(path, &error))?;
        }
        Ok(Folder { dir: dir.to_path_buf(), split, files, classes, checksum: OnceLock::new() })
    }

    /// The file of image `index`.
    pub fn path(&self, index: usize) -> Option<&Path> {
        self.files.get(index).map(|(path, _)| path.as_path())
    }
}

/// Names in one folder, sorted.
struct List {
    folders: Vec<String>,
    images: Vec<String>,
}

impl List {
    fn read(dir: &Path) -> Result<List> {
        let failed = |error: std::io::Error| Error::io(dir, &error);
        let mut list = List { folders: Vec::new(), images: Vec::new() };
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else {
                return Err(Error::new(ErrorKind::Io, entry.path().display().to_string(), "a name that is not UTF-8"));
            };
            if name.starts_with('.') {
                continue;
            }
            // Follows symbolic links, which large collections are often made of.
            let kind = std::fs::metadata(entry.path()).map_err(|error| Error::io(entry.path(), &error))?;
            if kind.is_dir() {
                list.folders.push(name);
            } else if is_image_name(&name) {
                if !kind.is_file() {
                    // To read a pipe or a device could take for ever.
                    return Err(Error::new(ErrorKind::Io, entry.path().display().to_string(), "not a file"));
                }
                list.images.push(name);
            }
        }
        list.folders.sort_unstable();
        list.images.sort_unstable();
        Ok(list)
    }
}

fn is_image_name(name: &str) -> bool {
    name.rsplit_once('.')
        .is_some_and(|(_, extension)| ["jpg", "jpeg", "png"].iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

/// Files with their labels, and the names of the classes.
type Labelled = (Vec<(PathBuf, Option<u32>)>, Vec<String>);

/// The images below `dir`: one class a sub-folder, or flat and unlabelled.
fn gather(dir: &Path) -> Result<Labelled> {
    let list = List::read(dir)?;
    let none = |dir: &Path| {
        Error::new(ErrorKind::Io, dir.display().to_string(), "no images").expected("files *.jpg, *.jpeg or *.png")
    };
    if list.folders.is_empty() {
        if list.images.is_empty() {
            return Err(none(dir).hint("or one folder of images for each class"));
        }
        return Ok((list.images.iter().map(|name| (dir.join(name), None)).collect(), Vec::new()));
    }
    if let Some(name) = list.images.first() {
        return Err(Error::new(
            ErrorKind::Io,
            dir.display().to_string(),
            format!("both class folders and images beside them, such as {name}"),
        )
        .hint("move the images into a class folder, or the folders away"));
    }
    let mut files = Vec::new();
    for (label, class) in list.folders.iter().enumerate() {
        let class_dir = dir.join(class);
        let images = List::read(&class_dir)?.images;
        if images.is_empty() {
            return Err(none(&class_dir).hint("a class folder must not be empty: remove it or fill it"));
        }
        files.extend(images.iter().map(|name| (class_dir.join(name), Some(label as u32))));
    }
    Ok((files, list.folders))
}

/// Replaces labels that count the classes of the test folder by those of the training folder.
fn relabel(files: &mut [(PathBuf, Option<u32>)], from: &[String], to: &[String], dir: &Path) -> Result<()> {
    let mut labels = Vec::with_capacity(from.len());
    for class in from {
        let label = to.binary_search(class).map_err(|_| {
            Error::new(ErrorKind::Io, dir.display().to_string(), format!("class {class}"))
                .expected("only classes that the folder train has")
        })?;
        labels.push(label as u32);
    }
    for (_, label) in files {
        *label = label.map(|label| labels[label as usize]);
    }
    Ok(())
}

/// The part of a folder without splits that belongs to `split`.
fn hold_out(files: Vec<(PathBuf, Option<u32>)>, split: Split, dir: &Path) -> Result<Vec<(PathBuf, Option<u32>)>> {
    if files.iter().all(|(_, label)| label.is_none()) {
        if split == Split::Test {
            return Err(Error::new(
                ErrorKind::Io,
                dir.display().to_string(),
                "unlabelled images, without a test split",
            )
            .expected("a folder of images for each class, or folders train and test"));
        }
        return Ok(files);
    }
    let mut kept = Vec::with_capacity(files.len());
    let (mut class, mut position) = (None, 0);
    for (path, label) in files {
        if label != class {
            (class, position) = (label, 0);
        }
        let is_held_out = position % HOLD_OUT == HOLD_OUT - 1;
        position += 1;
        if is_held_out == (split == Split::Test) {
            kept.push((path, label));
        }
    }
    if kept.is_empty() {
        return Err(Error::new(ErrorKind::Io, dir.display().to_string(), "too few images for a test split")
            .expected(format!("at least {HOLD_OUT} images in a class, or folders train and test")));
    }
    Ok(kept)
}

/// 64 bits over the files' names relative to `dir`, labels and content, in their order.
fn checksum(dir: &Path, files: &[(PathBuf, Option<u32>)]) -> u64 {
    let contents: Vec<AtomicU64> = files.iter().map(|_| AtomicU64::new(0)).collect();
    let next = AtomicUsize::new(0);
    let read = || {
        while let Some(index) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < files.len()) {
            // What has become unreadable since it was listed is unlike any file, and `get` names it.
            contents[index].store(content(&files[index].0).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..READERS.min(files.len()) {
            // Where the system refuses a thread, the others do its part.
            let _ = std::thread::Builder::new().spawn_scoped(scope, read);
        }
        read();
    });
    let mut hash = Xxh3::new();
    for ((path, label), content) in files.iter().zip(contents) {
        let relative = path.strip_prefix(dir).unwrap_or(path);
        for part in relative.iter() {
            hash.update(part.to_string_lossy().as_bytes());
            hash.update(b"/");
        }
        hash.update(&label.map_or(u64::MAX, u64::from).to_le_bytes());
        hash.update(&content.into_inner().to_le_bytes());
    }
    hash.digest()
}

/// 64 bits over the content of a file; over its size where it is too long to be an image.
fn content(path: &Path) -> io::Result<u64> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    if size > MAX_FILE {
        return Ok(xxh3_64(&size.to_le_bytes()));
    }
    let (mut hash, mut buffer, mut file) = (Xxh3::new(), vec![0; BUFFER], file.take(MAX_FILE));
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.digest()),
            Ok(read) => hash.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl Dataset for Folder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        check_index("folder", index, self.len())?;
        let (path, label) = &self.files[index];
        let size = std::fs::metadata(path).map_err(|error| Error::io(path, &error))?.len();
        if size > MAX_FILE {
            return Err(Error::new(ErrorKind::Corrupt, path.display().to_string(), format!("{size} bytes"))
                .expected(format!("an image file of at most {MAX_FILE} bytes")));
        }
        let bytes = std::fs::read(path).map_err(|error| Error::io(path, &error))?;
        Ok(Sample { image: decode(&bytes, path)?, label: *label })
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn describe(&self) -> DatasetInfo {
        DatasetInfo {
            name: "folder".into(),
            spec: format!("folder:{}", self.dir.display()),
            split: self.split,
            images: self.len(),
            size: None,
            channels: 3,
            classes: self.classes.clone(),
            checksum: *self.checksum.get_or_init(|| checksum(&self.dir, &self.files)),
        }
    }
}
