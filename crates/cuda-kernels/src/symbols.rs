//! Functions of libraries that are loaded at run time.
//!
//! cudarc panics at the first call of a function that the library does not have, because it is too old for instance;
//! so each library is looked through before anything of it is called.

use libloading::Library;

/// The first of these functions that a library does not have.
pub(crate) fn missing(library: &Library, names: &[&'static str]) -> Option<&'static str> {
    // SAFETY: it is looked for, and not called.
    let has =
        |name: &str| unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_ok();
    names.iter().copied().find(|name| !has(name))
}
