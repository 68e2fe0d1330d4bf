//! llama.cpp's file types: a name for a mixture of tensor types (`enum llama_ftype`).

use std::fmt;
use std::str::FromStr;

use blocks::DType;

macro_rules! file_types {
    ($($variant:ident $name:literal $id:literal $dtype:ident;)*) => {
        /// A mixture of tensor types, by llama.cpp's name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[allow(missing_docs, non_camel_case_types)]
        pub enum FileType {
            $($variant),*
        }

        impl FileType {
            /// All of them, in the order of their ids.
            pub const ALL: &'static [FileType] = &[$(FileType::$variant),*];

            /// llama.cpp's name, `Q4_K_M` for example.
            pub const fn name(self) -> &'static str {
                match self { $(FileType::$variant => $name),* }
            }

            /// The value of `general.file_type` in a GGUF file.
            pub const fn id(self) -> u32 {
                match self { $(FileType::$variant => $id),* }
            }

            /// The type that a tensor gets for which there is no rule of its own.
            pub const fn default_dtype(self) -> DType {
                match self { $(FileType::$variant => DType::$dtype),* }
            }
        }
    };
}

file_types! {
    // variant, name, id, default type
    F32 "F32" 0 F32;
    F16 "F16" 1 F16;
    Q4_0 "Q4_0" 2 Q4_0;
    Q4_1 "Q4_1" 3 Q4_1;
    Q8_0 "Q8_0" 7 Q8_0;
    Q5_0 "Q5_0" 8 Q5_0;
    Q5_1 "Q5_1" 9 Q5_1;
    Q2_K "Q2_K" 10 Q2_K;
    Q3_K_S "Q3_K_S" 11 Q3_K;
    Q3_K_M "Q3_K_M" 12 Q3_K;
    Q3_K_L "Q3_K_L" 13 Q3_K;
    Q4_K_S "Q4_K_S" 14 Q4_K;
    Q4_K_M "Q4_K_M" 15 Q4_K;
    Q5_K_S "Q5_K_S" 16 Q5_K;
    Q5_K_M "Q5_K_M" 17 Q5_K;
    Q6_K "Q6_K" 18 Q6_K;
    IQ2_XXS "IQ2_XXS" 19 IQ2_XXS;
    IQ2_XS "IQ2_XS" 20 IQ2_XS;
    Q2_K_S "Q2_K_S" 21 Q2_K;
    IQ3_XS "IQ3_XS" 22 IQ3_S;
    IQ3_XXS "IQ3_XXS" 23 IQ3_XXS;
    IQ1_S "IQ1_S" 24 IQ1_S;
    IQ4_NL "IQ4_NL" 25 IQ4_NL;
    IQ3_S "IQ3_S" 26 IQ3_S;
    IQ3_M "IQ3_M" 27 IQ3_S;
    IQ2_S "IQ2_S" 28 IQ2_XS;
    IQ2_M "IQ2_M" 29 IQ2_S;
    IQ4_XS "IQ4_XS" 30 IQ4_XS;
    IQ1_M "IQ1_M" 31 IQ1_M;
    BF16 "BF16" 32 BF16;
    TQ1_0 "TQ1_0" 36 TQ1_0;
    TQ2_0 "TQ2_0" 37 TQ2_0;
    MXFP4_MOE "MXFP4_MOE" 38 MXFP4;
    NVFP4 "NVFP4" 39 NVFP4;
    Q1_0 "Q1_0" 40 Q1_0;
    Q2_0 "Q2_0" 41 Q2_0;
}

impl FileType {
    /// The mixture with this id.
    pub fn from_id(id: u32) -> Option<FileType> {
        Self::ALL.iter().copied().find(|f| f.id() == id)
    }

    /// Whether tensors can be encoded for it here: not with the IQ1, IQ2 and IQ3 types.
    pub const fn can_encode(self) -> bool {
        blocks::can_encode(self.default_dtype())
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no mixture has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown file type '{0}'; known: {known}", known = FileType::ALL.iter().map(|f| f.name()).collect::<Vec<_>>().join(", "))]
pub struct UnknownFileType(pub String);

impl FromStr for FileType {
    type Err = UnknownFileType;

    /// Reads llama.cpp's names in upper or lower case, its aliases `Q3_K`, `Q4_K` and `Q5_K` for the
    /// middle mixtures, and ids.
    ///
    /// ```
    /// use quant_core::FileType;
    /// assert_eq!("q4_k".parse(), Ok(FileType::Q4_K_M));
    /// assert_eq!("17".parse(), Ok(FileType::Q5_K_M));
    /// ```
    fn from_str(s: &str) -> Result<Self, UnknownFileType> {
        let named = Self::ALL.iter().copied().find(|f| f.name().eq_ignore_ascii_case(s));
        let alias = || {
            let aliases = [("Q3_K", Self::Q3_K_M), ("Q4_K", Self::Q4_K_M), ("Q5_K", Self::Q5_K_M)];
            aliases.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(s)).map(|(_, f)| f)
        };
        let by_id = || s.parse().ok().and_then(Self::from_id);
        named.or_else(alias).or_else(by_id).ok_or_else(|| UnknownFileType(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_come_back() {
        for &f in FileType::ALL {
            assert_eq!(f.name().to_lowercase().parse(), Ok(f));
            assert_eq!(FileType::from_id(f.id()), Some(f));
        }
        assert!(FileType::ALL.is_sorted_by_key(|f| f.id()));
        let error = "Q9".parse::<FileType>().expect_err("no such type").to_string();
        assert!(error.starts_with("unknown file type 'Q9'; known: F32, F16, Q4_0"), "{error}");
    }
}
