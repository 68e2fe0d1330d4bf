//! Parses bytes as a safetensors file, beside the format's own library.
#![cfg_attr(fuzzing, no_main)]

use std::path::Path;

use model::Error;
use model::weights::HeaderFault;
use model::weights::safetensors::{Entry, parse};
use safetensors::SafeTensors;

fuzz::target!(run);

fn run(bytes: &[u8]) {
    let ours = parse(bytes, Path::new("a.safetensors"));
    if let Ok(entries) = &ours {
        walk(entries, bytes);
    }
    let Ok(theirs) = SafeTensors::deserialize(bytes) else { return };
    match ours {
        Ok(entries) => {
            assert_eq!(entries.len(), theirs.len());
            for e in &entries {
                let view = theirs.tensor(&e.name).expect("it is in both");
                assert_eq!((e.dtype, e.shape.as_slice()), (view.dtype(), view.shape()));
                assert_eq!(&bytes[e.range.clone()], view.data());
            }
        }
        // What the library takes and we do not.
        Err(Error::SafetensorsHeader {
            fault:
                HeaderFault::Duplicate { .. }
                | HeaderFault::NoElements { .. }
                | HeaderFault::TooManyDimensions { .. },
            ..
        }) => {}
        Err(other) => panic!("{other}"),
    }
}

/// The tensors fill the data without gaps, and none has another's name.
fn walk(entries: &[Entry], bytes: &[u8]) {
    let data = u64::from_le_bytes(bytes[..8].try_into().expect("a length")) as usize + 8;
    let mut end = data;
    for e in entries {
        assert_eq!(e.range.start, end);
        assert!(!e.range.is_empty());
        let bits = e.shape.iter().product::<usize>() * e.dtype.bitsize();
        assert_eq!(e.range.len() * 8, bits);
        end = e.range.end;
    }
    assert_eq!(end, bytes.len());
    let mut names: Vec<&str> = entries.iter().map(|e| e.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), entries.len());
}
