//! The GGUF lines of the list of hostile inputs: each is a typed error within 50 ms and 16 MiB.

use gguf::{Error, Gguf, parse};
use testkit::bounds::{Bounds, PeakAlloc};
use testkit::gguf::*;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

static BOUNDS: Bounds = Bounds::new(&ALLOCATOR);

/// The error of bytes, from memory and from a file.
fn error_of(make: impl FnOnce() -> Vec<u8>) -> Error {
    let alone = BOUNDS.alone();
    let bytes = make();
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    std::fs::write(&path, &bytes).unwrap();

    let from_bytes = alone.check("bytes", || parse(&bytes)).expect_err("the bytes are wrong");
    let from_file = alone.check("file", || Gguf::open(&path)).expect_err("the file is wrong");
    assert_eq!(from_bytes.to_string(), from_file.fault().to_string());
    assert!(!from_bytes.to_string().contains('\n'), "{from_bytes}");
    from_bytes
}

macro_rules! hostile {
    ($($name:ident: $raw:expr => $pattern:pat,)*) => {$(
        #[test]
        fn $name() {
            let error = error_of(|| $raw.0);
            assert!(matches!(error, $pattern), "{error:?}");
        }
    )*};
}

/// A file of one tensor with these dimensions.
fn shaped(dims: &[u64], kind: u32) -> Raw {
    Raw::header(3, 1, 0).tensor("t", dims, kind, 0).data(32, 1 << 10)
}

/// A file of two tensors of 32 floats at these offsets, with 256 bytes of data.
fn placed(first: u64, second: u64) -> Raw {
    let raw = Raw::header(3, 2, 0).tensor("a", &[32], F32, first);
    raw.tensor("b", &[32], F32, second).data(32, 256)
}

/// A file whose alignment is stored as this key type with these bytes.
fn aligned(kind: u32, value: impl Fn(Raw) -> Raw) -> Raw {
    value(Raw::header(3, 0, 1).key("general.alignment", kind)).data(1, 64)
}

/// An array of arrays of ... of nothing, `depth` deep.
fn nested(depth: usize) -> Raw {
    let raw = Raw::header(3, 0, 1).key("k", ARRAY);
    (1..depth).fold(raw, |raw, _| raw.array(ARRAY, 1)).array(U32, 0)
}

hostile! {
    empty: Raw::default() => Error::NotGguf { .. },
    another_format: Raw(b"GGML and more".to_vec()) => Error::NotGguf { .. },
    version_0: Raw::header(0, 0, 0) => Error::UnsupportedVersion { version: 0 },
    version_1: Raw::header(1, 0, 0) => Error::UnsupportedVersion { version: 1 },
    version_4: Raw::header(4, 0, 0) => Error::UnsupportedVersion { version: 4 },
    big_endian: Raw::header(3u32.swap_bytes(), 0, 0) => Error::BigEndian { version: 3 },
    keys_huge: Raw::header(3, 0, u64::MAX) => Error::ImpossibleCount { .. },
    keys_many: Raw::header(3, 0, 1 << 40).data(1, 1 << 20) => Error::ImpossibleCount { .. },
    tensors_huge: Raw::header(3, u64::MAX, 0) => Error::ImpossibleCount { .. },
    tensors_many: Raw::header(3, 1 << 40, 0).data(1, 1 << 20) => Error::ImpossibleCount { .. },
    // as many keys of the least size as a megabyte holds, the last one a duplicate
    keys_that_fit: {
        let n = (1 << 20) / 16;
        let name = |i: u64| format!("{:03}", base(i.min(n - 2)));
        (0..n).fold(Raw::header(3, 0, n), |r, i| r.key(&name(i), 0).u8(1))
    } => Error::DuplicateKey { .. },
    // as many tensors of the least size as a megabyte holds, without data
    tensors_that_fit: {
        let n = (1 << 20) / 28;
        (0..n).fold(Raw::header(3, n, 0), |r, i| r.tensor(&base(i), &[], 24, 0))
    } => Error::OutOfBounds { .. },
    arrays_that_fit: {
        let n = (1 << 20) / 27;
        (0..n).fold(Raw::header(3, 1, n), |r, i| r.key(&base(i), ARRAY).array(0, 0))
    } => Error::ImpossibleCount { .. },
    key_beyond_the_end: Raw::header(3, 0, 1).u64(1 << 60).data(1, 64) => Error::Truncated { .. },
    string_beyond_the_end: Raw::header(3, 0, 1).key("k", STRING).u64(u64::MAX).data(1, 64)
        => Error::Truncated { .. },
    string_of_array_beyond_the_end:
        Raw::header(3, 0, 1).key("k", ARRAY).array(STRING, 2).string("a").u64(1 << 32).data(1, 64)
        => Error::Truncated { .. },
    tensor_name_beyond_the_end: Raw::header(3, 1, 0).u64(u64::MAX - 7).data(1, 64)
        => Error::Truncated { .. },
    array_of_strings_too_long:
        Raw::header(3, 0, 1).key("k", ARRAY).array(STRING, 1 << 30).data(1, 1 << 20)
        => Error::ImpossibleCount { .. },
    array_whose_bytes_wrap:
        Raw::header(3, 0, 1).key("k", ARRAY).array(U64, (1 << 61) + 1).data(1, 64)
        => Error::ImpossibleCount { .. },
    array_too_long: Raw::header(3, 0, 1).key("k", ARRAY).array(U32, 17).data(1, 64)
        => Error::ImpossibleCount { .. },
    arrays_nested_deep: nested(80_000) => Error::NestedTooDeep { .. },
    arrays_nested_too_deep: nested(5) => Error::NestedTooDeep { .. },
    array_of_unknown_type: Raw::header(3, 0, 1).key("k", ARRAY).array(13, 0)
        => Error::UnknownValueType { id: 13, .. },
    value_of_unknown_type: Raw::header(3, 0, 1).key("k", 99).data(1, 64)
        => Error::UnknownValueType { id: 99, .. },
    bool_of_2: Raw::header(3, 0, 1).key("k", BOOL).u8(2) => Error::InvalidBool { byte: 2, .. },
    bool_of_array: Raw::header(3, 0, 1).key("k", ARRAY).array(BOOL, 2).u8(1).u8(255)
        => Error::InvalidBool { byte: 255, .. },
    key_not_utf8: Raw::header(3, 0, 1).string(b"\xff").u32(0).data(1, 64) => Error::NotUtf8 { .. },
    text_not_utf8: Raw::header(3, 0, 1).key("k", STRING).string(b"\xc3") => Error::NotUtf8 { .. },
    tensor_name_not_utf8: Raw::header(3, 1, 0).string(b"\xed\xa0\x80").u32(0).data(1, 64)
        => Error::NotUtf8 { .. },
    five_dimensions: shaped(&[1; 5], F32) => Error::TooManyDimensions { dims: 5, .. },
    dimensions_huge: Raw::header(3, 1, 0).string("t").u32(u32::MAX).data(1, 64)
        => Error::TooManyDimensions { .. },
    dimension_zero: shaped(&[4, 0], F32) => Error::Dimension { value: 0, .. },
    dimension_negative: shaped(&[4, -1i64 as u64], F32) => Error::Dimension { value: -1, .. },
    dimension_least: shaped(&[1 << 63], F32) => Error::Dimension { value: i64::MIN, .. },
    product_wraps_to_0: shaped(&[1 << 32, 1 << 32], F32) => Error::SizeOverflow { .. },
    product_wraps_to_1: shaped(&[0x1_0000_0001, 0xffff_ffff_0000_0001 >> 1, 3], F32)
        => Error::SizeOverflow { .. },
    product_over_i64: shaped(&[1 << 62, 2], 24) => Error::SizeOverflow { .. },
    bytes_wrap: shaped(&[1 << 62], F32) => Error::SizeOverflow { .. },
    bytes_near_the_largest: shaped(&[(1 << 62) - 1, 2], 25) => Error::OutOfBounds { .. },
    offset_and_size_wrap: placed(u64::MAX - 31, 0) => Error::OutOfBounds { .. },
    offset_beyond_the_end: placed(0, 256) => Error::OutOfBounds { .. },
    end_beyond_the_end: placed(0, 160) => Error::OutOfBounds { .. },
    offset_unaligned: placed(0, 129) => Error::Misaligned { .. },
    overlapping: placed(0, 96) => Error::Overlap { .. },
    overlapping_out_of_order: placed(128, 64) => Error::Overlap { .. },
    same_place: placed(64, 64) => Error::Overlap { .. },
    part_of_a_block: shaped(&[128, 2], Q4_K) => Error::PartialBlock { row: 128, .. },
    scalar_of_blocks: shaped(&[], Q4_K) => Error::PartialBlock { row: 1, .. },
    tensor_type_unknown: shaped(&[4], 1000) => Error::UnknownType { id: 1000, .. },
    tensor_type_removed: shaped(&[32], 4) => Error::UnknownType { id: 4, .. },
    alignment_0: aligned(U32, |r| r.u32(0)) => Error::Alignment { value: 0, .. },
    alignment_4: aligned(U32, |r| r.u32(4)) => Error::Alignment { value: 4, .. },
    alignment_48: aligned(U32, |r| r.u32(48)) => Error::Alignment { value: 48, .. },
    alignment_huge: aligned(U32, |r| r.u32(0x8000_0000)) => Error::Alignment { .. },
    alignment_u64: aligned(U64, |r| r.u64(32)) => Error::AlignmentType { .. },
    alignment_string: aligned(STRING, |r| r.string("32")) => Error::AlignmentType { .. },
    duplicate_key: Raw::header(3, 0, 2).key("k", 0).u8(1).key("k", 0).u8(1)
        => Error::DuplicateKey { .. },
    duplicate_alignment:
        Raw::header(3, 0, 2).key("general.alignment", U32).u32(32).key("general.alignment", U32).u32(64)
        => Error::DuplicateKey { .. },
    duplicate_tensor:
        Raw::header(3, 2, 0).tensor("t", &[8], F32, 0).tensor("t", &[8], F32, 32).data(32, 64)
        => Error::DuplicateTensor { .. },
    data_missing: Raw::header(3, 1, 0).tensor("t", &[8], F32, 0) => Error::OutOfBounds { .. },
}

/// `i` in base 36, at most four characters.
fn base(i: u64) -> String {
    let digit = |p: u32| b"0123456789abcdefghijklmnopqrstuvwxyz"[(i / 36u64.pow(p) % 36) as usize];
    String::from_utf8((0..4).map(digit).collect()).unwrap()
}

/// One valid file with something of everything.
fn valid() -> Vec<u8> {
    let raw = Raw::header(3, 2, 4).key("general.alignment", U32).u32(32);
    let raw = raw.key("name", STRING).string("text");
    let raw = raw.key("flags", ARRAY).array(BOOL, 2).u8(0).u8(1);
    let raw = raw.key("nested", ARRAY).array(ARRAY, 2).array(STRING, 1).string("a").array(U32, 0);
    raw.tensor("a", &[8], F32, 0).tensor("b", &[3, 2], F32, 32).data(32, 32 + 24).0
}

#[test]
fn truncated_at_every_byte() {
    let bytes = valid();
    assert!(parse(&bytes).is_ok());
    for n in 0..bytes.len() {
        let error = parse(&bytes[..n]).expect_err("it is not whole");
        assert!(
            matches!(
                error,
                Error::NotGguf { .. }
                    | Error::Truncated { .. }
                    | Error::ImpossibleCount { .. }
                    | Error::OutOfBounds { .. }
            ),
            "{n}: {error:?}"
        );
    }
}

#[test]
fn every_byte_changed() {
    let bytes = valid();
    for i in 0..bytes.len() {
        for v in [0, 1, 0x7f, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[i] = v;
            if let Ok(parsed) = parse(&changed) {
                for t in &parsed.tensors {
                    assert!(changed.get(t.range()).is_some());
                }
            }
        }
    }
}

#[test]
fn what_is_unusual_but_right_is_read() {
    let nested = parse(&valid()).unwrap();
    let arrays: Vec<_> =
        nested.metadata.get("nested").unwrap().as_array().unwrap().arrays().unwrap().collect();
    assert_eq!(arrays, [vec!["a"].into(), Vec::<u32>::new().into()]);

    // out of order, with a gap, no padding at the end, version 2
    let raw = Raw::header(2, 2, 0).tensor("b", &[3], F32, 96).tensor("a", &[8], F32, 0);
    let parsed = parse(&raw.data(32, 96 + 12).0).unwrap();
    assert_eq!(parsed.tensors[0].shape, [3]);
    assert_eq!(parsed.tensors[0].range().len(), 12);

    // a scalar, and a vocabulary without tensors that ends before the padding
    assert_eq!(parse(&shaped(&[], F32).0).unwrap().tensors[0].elements(), 1);
    assert!(parse(&Raw::header(3, 0, 1).key("k", 0).u8(1).0).is_ok());
}
