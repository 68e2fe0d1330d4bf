use super::*;
use crate::repack::Repack;
use tensor::DType;

/// A model's file of one weight of 32 rows, and its plan.
fn model(path: &Path, fill: u8) -> (Gguf, Plan) {
    let mut builder = gguf::Builder::new();
    builder.set("general.architecture", "llama");
    builder.tensor("w", vec![32, 64], DType::Q8_0).unwrap();
    let mut writer = builder.create(path).unwrap();
    let data: Vec<u8> = (0..32 * 68).map(|i| (i % 61) as u8 ^ fill).collect();
    writer.append(&data).unwrap();
    writer.commit().unwrap();
    opened(path)
}

fn opened(path: &Path) -> (Gguf, Plan) {
    let model = Gguf::open(path).unwrap();
    let (map, range) = model.mapped(model.tensor("w").unwrap());
    let weight = Tensor::mapped(DType::Q8_0, [32, 64], map, range).unwrap();
    let mut plan = Plan { names: Vec::new(), weights: Vec::new(), ranges: Vec::new() };
    plan.consider("w", weight, &compute(), false, Repack::Always);
    assert_eq!(plan.names, ["w"]);
    (model, plan)
}

fn compute() -> Compute {
    Compute::cpu().with_threads(2)
}

#[test]
fn a_second_start_maps_what_the_first_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("made/when/needed");
    let (file, plan) = model(&dir.path().join("m.gguf"), 0);
    let entry = Entry::new(&folder, &file, &plan);
    assert!(entry.open(&plan).unwrap().is_none());
    let mut heard = Vec::new();
    let mut progress = |p: crate::LoadProgress| heard.push((p.done, p.total));
    let mut options = LoadOptions { progress: Some(&mut progress), ..Repack::Always.into() };
    let written = entry.open_or_write(&plan, &compute(), &mut options).unwrap();
    let mapped = entry.open_or_write(&plan, &compute(), &mut options).unwrap();
    assert_eq!(heard, [(2176, 2176)], "written once");
    let want = plan.weights[0].to_f32().unwrap();
    for packed in [&written[0], &mapped[0]] {
        assert!(packed.is_interleaved());
        assert_eq!(packed.to_f32().unwrap().as_f32().unwrap(), want.as_f32().unwrap());
    }
    let listed = list(&folder).unwrap();
    assert_eq!(listed.len(), 1);
    assert!(listed[0].path.file_name().unwrap().to_string_lossy().starts_with("m-"));
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    fs::write(folder.join("other.repacked"), "no entry").unwrap();
    assert_eq!(clear(&folder).unwrap(), listed[0].bytes);
    assert_eq!(paths(&folder).unwrap().len(), 2, "files of others stay");
    assert!(list(&folder.join("none")).unwrap().is_empty());
}

#[test]
fn an_entry_that_differs_anywhere_that_matters_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (file, plan) = model(&dir.path().join("m.gguf"), 0);
    let entry = Entry::new(dir.path(), &file, &plan);
    let options = &mut LoadOptions::default();
    entry.write(&plan, &compute(), options).unwrap();
    let whole = fs::read(&entry.path).unwrap();
    let is_used = |bytes: &[u8]| {
        fs::write(&entry.path, bytes).unwrap();
        entry.open(&plan).unwrap().is_some()
    };
    assert!(is_used(&whole));
    for cut in [0, 1, 8, 16, 100, ALIGNMENT, whole.len() - 1] {
        assert!(!is_used(&whole[..cut]), "cut at {cut}");
    }
    assert!(!is_used(&[&whole[..], &[0]].concat()), "too long");
    for at in 0..entry.front.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        assert!(!is_used(&changed), "byte {at}");
    }
    // A length of the header that wraps or is huge is compared, never followed.
    for len in [u64::MAX, u64::MAX - 15, 1 << 40] {
        let mut changed = whole.clone();
        changed[8..16].copy_from_slice(&len.to_le_bytes());
        assert!(!is_used(&changed));
    }
    let mut zeros = whole.clone();
    zeros[entry.front.len()..].fill(0);
    assert!(!is_used(&zeros), "weights that never reached the disk");
    let packed = entry.open_or_write(&plan, &compute(), options).unwrap();
    assert!(packed[0].is_interleaved());
    assert_eq!(fs::read(&entry.path).unwrap(), whole);
}

#[test]
fn weights_of_another_file_are_never_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let (file, plan) = model(&path, 0);
    let entry = Entry::new(dir.path(), &file, &plan);
    entry.write(&plan, &compute(), &mut LoadOptions::default()).unwrap();
    // The same metadata, shapes, length and time, other weights.
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let (_, _) = model(&path, 1);
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    let (file, plan) = opened(&path);
    let other = Entry::new(dir.path(), &file, &plan);
    assert_eq!(other.path, entry.path, "it takes the place of the first");
    assert!(other.open(&plan).unwrap().is_none());
    // Even where a system told the same of both.
    let same = Entry { path: entry.path.clone(), front: entry.front.clone() };
    assert!(same.open(&plan).unwrap().is_none());
    let packed = other.open_or_write(&plan, &compute(), &mut LoadOptions::default()).unwrap();
    let want = plan.weights[0].to_f32().unwrap();
    assert_eq!(packed[0].to_f32().unwrap().as_f32().unwrap(), want.as_f32().unwrap());
}

#[test]
fn processes_that_write_at_once_leave_a_whole_entry() {
    let dir = tempfile::tempdir().unwrap();
    let (file, plan) = model(&dir.path().join("m.gguf"), 0);
    let entry = &Entry::new(dir.path(), &file, &plan);
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                let options = &mut LoadOptions::default();
                assert!(entry.open_or_write(&plan, &compute(), options).unwrap().len() == 1);
            });
        }
    });
    assert!(entry.open(&plan).unwrap().is_some());
    assert_eq!(list(dir.path()).unwrap().len(), 1);
    assert_eq!(paths(dir.path()).unwrap().len(), 2, "the model and its entry");
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (file, plan) = model(&dir.path().join("m.gguf"), 0);
    let blocked = dir.path().join("file");
    fs::write(&blocked, "").unwrap();
    let entry = Entry::new(&blocked.join("folder"), &file, &plan);
    let options = &mut LoadOptions::default();
    assert!(entry.open_or_write(&plan, &compute(), options).is_err());
}
