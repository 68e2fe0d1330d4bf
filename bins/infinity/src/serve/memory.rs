//! How much memory a model takes when it is served, and how much of it is for keys and values.

use std::path::Path;

use anyhow::{Context, Result, bail};
use files::units::gigabytes;
use model::{DecoderConfig, ModelConfig};
use tensor::DType;

/// What the command line says of keys and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvSizes {
    /// Bytes, if said.
    pub(crate) bytes: Option<u64>,
    /// Bytes on the host to swap to.
    pub(crate) swap: u64,
    pub(crate) block_size: usize,
    pub(crate) dtype: DType,
    /// The most positions of a sequence, if said.
    pub(crate) max_model_len: Option<usize>,
    pub(crate) max_sequences: usize,
}

/// Blocks of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvPlan {
    pub(crate) blocks: u32,
    pub(crate) host_blocks: u32,
    pub(crate) bytes: u64,
}

impl KvSizes {
    /// Without a word of the user: room for as many sequences as run at once, of 4096 positions each
    /// or what a sequence has at most, but no more than a third of the memory there is, and not less
    /// than one sequence of full length.
    pub(crate) fn plan(&self, config: &ModelConfig, available: Option<u64>) -> Result<KvPlan> {
        const USUAL: usize = 4096;
        let ModelConfig::Decoder(config) = config else {
            return Ok(KvPlan { blocks: 0, host_blocks: 0, bytes: 0 });
        };
        let block = self.block_bytes(config)?;
        let longest = self.max_model_len.unwrap_or(config.context_length);
        let longest = longest.min(config.context_length);
        let of_tokens = |tokens: usize| tokens.div_ceil(self.block_size) as u64 * block;
        let bytes = match self.bytes {
            Some(bytes) => bytes,
            None => {
                let wanted =
                    of_tokens(longest.min(USUAL)).saturating_mul(self.max_sequences as u64);
                let third = available.map_or(wanted, |all| all / 3);
                let least = of_tokens(longest).min(third.saturating_mul(2));
                wanted.min(third).max(least)
            }
        };
        let blocks = u32::try_from(bytes / block).unwrap_or(u32::MAX);
        if blocks == 0 {
            bail!(
                "{} for keys and values is less than one block of {} positions ({}); give more by \
                 --kv-memory, or smaller blocks by --block-size",
                gigabytes(bytes),
                self.block_size,
                gigabytes(block)
            );
        }
        let host_blocks = u32::try_from(self.swap / block).unwrap_or(u32::MAX);
        let bytes = (u64::from(blocks) + u64::from(host_blocks)).saturating_mul(block);
        Ok(KvPlan { blocks, host_blocks, bytes })
    }

    fn block_bytes(&self, config: &DecoderConfig) -> Result<u64> {
        let layout = config.kv_layout(self.dtype);
        layout.check()?;
        if self.block_size == 0 {
            bail!("--block-size 0: a block holds at least one position");
        }
        Ok((self.block_size * layout.bytes_per_token()) as u64)
    }
}

/// Bytes of a model's weights: its file's, or those of all weight files of its folder.
pub(crate) fn weight_bytes(path: &Path) -> Result<u64> {
    let size = |path: &Path| -> Result<u64> {
        let meta = std::fs::metadata(path).with_context(|| path.display().to_string())?;
        Ok(meta.len())
    };
    if !path.is_dir() {
        return size(path);
    }
    let mut bytes = 0;
    for entry in std::fs::read_dir(path).with_context(|| path.display().to_string())? {
        let file = entry?.path();
        if file.extension().is_some_and(|e| e == "safetensors" || e == "gguf") {
            bytes += size(&file)?;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bard() -> ModelConfig {
        let path = testkit::workspace().join("assets/bard-f16.gguf");
        model::weights::open(&path).unwrap().0
    }

    const SIZES: KvSizes = KvSizes {
        bytes: None,
        swap: 0,
        block_size: 16,
        dtype: DType::F16,
        max_model_len: None,
        max_sequences: 4,
    };

    #[test]
    fn there_is_room_for_all_sequences_or_for_a_third_of_the_memory() {
        let config = bard();
        let ModelConfig::Decoder(decoder) = &config else { panic!("bard decodes") };
        let (len, block) = (decoder.context_length, SIZES.block_bytes(decoder).unwrap());
        let blocks = |available| SIZES.plan(&config, available).unwrap().blocks as usize;
        assert_eq!(blocks(None), 4 * len / 16);
        assert_eq!(blocks(Some(1 << 40)), 4 * len / 16);
        assert_eq!(blocks(Some(6 * len as u64 / 16 * block)), 2 * len / 16);
        // At least one sequence fits, if two thirds of the memory hold it.
        assert_eq!(blocks(Some(2 * len as u64 / 16 * block)), len / 16);
        let said = KvSizes { bytes: Some(10 * block + 1), swap: 3 * block, ..SIZES };
        let plan = said.plan(&config, None).unwrap();
        assert_eq!(plan, KvPlan { blocks: 10, host_blocks: 3, bytes: 13 * block });
        let little = KvSizes { bytes: Some(block - 1), ..SIZES };
        assert!(little.plan(&config, None).unwrap_err().to_string().contains("--kv-memory"));
    }
}
