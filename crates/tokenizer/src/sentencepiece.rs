//! SentencePiece's `tokenizer.model`: the protobuf message `ModelProto`, read and written.
//!
//! Source: `sentencepiece_model.proto`. Field 1 of the model holds the pieces (text 1, score 2,
//! type 3), field 2 the training's settings (model type 3, whitespace as suffix 24, byte fallback
//! 35, ids 40 to 43), field 3 the normaliser (name 1, character map 2, dummy prefix 3, extra
//! whitespace 4, escape 5). Unknown fields are skipped; every length is checked against the bytes
//! that remain.

use crate::{Error, SpecialIds, TokenType, Vocabulary, VocabularyModel};

/// A field of a message: its number and its value.
enum Field<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
    Fixed64,
}

/// A cursor over the fields of one message.
struct Message<'a> {
    bytes: &'a [u8],
    /// Where the rest begins in the whole file, for errors.
    offset: usize,
}

impl<'a> Message<'a> {
    fn fault(&self, fault: &'static str) -> Error {
        Error::Protobuf { offset: self.offset, fault }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Error> {
        if n > self.bytes.len() {
            return Err(self.fault("a field is longer than its message"));
        }
        let (head, rest) = self.bytes.split_at(n);
        self.bytes = rest;
        self.offset += n;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.fault("an integer is too long"))
    }

    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, Error> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Fixed64
            }
            2 => {
                let len = self.varint()?;
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                Field::Bytes(self.take(len)?)
            }
            5 => {
                let b = self.take(4)?;
                Field::Fixed32([b[0], b[1], b[2], b[3]])
            }
            _ => return Err(self.fault("a field has an unknown wire type")),
        };
        if tag >> 3 == 0 {
            return Err(self.fault("a field has the number 0"));
        }
        Ok(Some((tag >> 3, field)))
    }

    /// The message in a field that was just read.
    fn inner(&self, bytes: &'a [u8]) -> Message<'a> {
        Message { bytes, offset: self.offset - bytes.len() }
    }
}

impl Vocabulary {
    /// Reads a `tokenizer.model`.
    ///
    /// # Errors
    /// [`Error::Protobuf`] with the place; [`Error::SentencePieceKind`] for word and character
    /// models.
    pub fn from_sentencepiece(bytes: &[u8]) -> Result<Self, Error> {
        let mut v = Vocabulary::new(VocabularyModel::Unigram);
        v.special = SpecialIds::default();
        (v.add_space_prefix, v.remove_extra_whitespaces) = (true, true);
        let (mut kind, mut ids) = (1, [0i32, 1, 2, -1]); // unk, bos, eos, pad
        let mut model = Message { bytes, offset: 0 };
        while let Some((number, field)) = model.next()? {
            match (number, field) {
                (1, Field::Bytes(b)) => piece(model.inner(b), &mut v)?,
                (2, Field::Bytes(b)) => {
                    let mut trainer = model.inner(b);
                    while let Some((number, field)) = trainer.next()? {
                        match (number, field) {
                            (3, Field::Varint(n)) => kind = n,
                            (24, Field::Varint(n)) => v.treat_whitespace_as_suffix = n != 0,
                            (40..=43, Field::Varint(n)) => ids[number as usize - 40] = n as i32,
                            _ => {}
                        }
                    }
                }
                (3, Field::Bytes(b)) => {
                    let mut normalizer = model.inner(b);
                    while let Some((number, field)) = normalizer.next()? {
                        match (number, field) {
                            (2, Field::Bytes(map)) => v.charsmap = map.to_vec(),
                            (3, Field::Varint(n)) => v.add_space_prefix = n != 0,
                            (4, Field::Varint(n)) => v.remove_extra_whitespaces = n != 0,
                            (5, Field::Varint(n)) => v.escape_whitespaces = n != 0,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        v.model = match kind {
            1 => VocabularyModel::Unigram,
            2 => VocabularyModel::Spm,
            kind => return Err(Error::SentencePieceKind { kind }),
        };
        if v.tokens.is_empty() {
            return Err(Error::Protobuf { offset: bytes.len(), fault: "it holds no piece" });
        }
        // The pieces say themselves which is unknown; the other ids are settings.
        let id = |n: i32| u32::try_from(n).ok().filter(|&n| (n as usize) < v.tokens.len());
        let unknown = v.types.iter().position(|&t| t == TokenType::Unknown).map(|i| i as u32);
        let (bos, eos, pad) = (id(ids[1]), id(ids[2]), id(ids[3]));
        v.special = SpecialIds { unk: unknown.or(id(ids[0])), bos, eos, pad, ..v.special };
        v.add_bos = v.model == VocabularyModel::Spm;
        v.add_eos = v.model == VocabularyModel::Unigram;
        v.matched_normalized =
            (0..v.tokens.len() as u32).filter(|&id| v.kind(id) == TokenType::UserDefined).collect();
        Ok(v)
    }

    /// Writes the vocabulary as a `tokenizer.model`.
    ///
    /// # Errors
    /// [`Error::NotConvertible`] unless the model is SentencePiece BPE or Unigram.
    pub fn to_sentencepiece(&self) -> Result<Vec<u8>, Error> {
        let kind = match self.model {
            VocabularyModel::Unigram => 1,
            VocabularyModel::Spm => 2,
            other => {
                return Err(Error::NotConvertible {
                    from: other.name(),
                    to: "tokenizer.model",
                    reason: "it is no SentencePiece vocabulary".to_owned(),
                });
            }
        };
        let mut out = Vec::new();
        let mut byte_fallback = false;
        for (id, token) in self.tokens.iter().enumerate() {
            let kind = self.kind(id as u32);
            byte_fallback |= kind == TokenType::Byte;
            let mut piece = Vec::new();
            let escaped = match kind {
                TokenType::UserDefined if self.escape_whitespaces => {
                    String::from_utf8_lossy(token).replace(' ', "▁").into_bytes()
                }
                _ => token.clone(),
            };
            put_bytes(&mut piece, 1, &escaped);
            put_tag(&mut piece, 2, 5);
            piece.extend(self.score(id as u32).to_le_bytes());
            if !matches!(kind, TokenType::Normal | TokenType::Undefined) {
                put_varint(&mut piece, 3, kind as u64);
            }
            put_bytes(&mut out, 1, &piece);
        }
        let mut trainer = Vec::new();
        put_varint(&mut trainer, 3, kind);
        put_varint(&mut trainer, 4, self.tokens.len() as u64);
        put_varint(&mut trainer, 24, self.treat_whitespace_as_suffix.into());
        put_varint(&mut trainer, 35, byte_fallback.into());
        let s = &self.special;
        for (number, id) in [(40, s.unk), (41, s.bos), (42, s.eos), (43, s.pad)] {
            // An absent id is -1, a negative number of ten bytes.
            put_varint(&mut trainer, number, id.map_or(u64::MAX, u64::from));
        }
        put_bytes(&mut out, 2, &trainer);
        let mut normalizer = Vec::new();
        put_bytes(
            &mut normalizer,
            1,
            if self.charsmap.is_empty() { b"identity" } else { b"user_defined" },
        );
        put_bytes(&mut normalizer, 2, &self.charsmap);
        put_varint(&mut normalizer, 3, self.add_space_prefix.into());
        put_varint(&mut normalizer, 4, self.remove_extra_whitespaces.into());
        put_varint(&mut normalizer, 5, self.escape_whitespaces.into());
        put_bytes(&mut out, 3, &normalizer);
        Ok(out)
    }
}

fn piece(mut message: Message<'_>, v: &mut Vocabulary) -> Result<(), Error> {
    let (mut text, mut score, mut kind) = (&[][..], 0.0, 1);
    while let Some((number, field)) = message.next()? {
        match (number, field) {
            (1, Field::Bytes(b)) => text = b,
            (2, Field::Fixed32(b)) => score = f32::from_le_bytes(b),
            (3, Field::Varint(n)) => kind = n,
            _ => {}
        }
    }
    if text.is_empty() {
        return Err(message.fault("a piece is empty"));
    }
    v.tokens.push(text.to_vec());
    v.scores.push(score);
    v.types.push(TokenType::from_number(i64::try_from(kind).unwrap_or(0)));
    Ok(())
}

fn put_raw(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_tag(out: &mut Vec<u8>, number: u64, wire: u64) {
    put_raw(out, number << 3 | wire);
}

fn put_varint(out: &mut Vec<u8>, number: u64, value: u64) {
    put_tag(out, number, 0);
    put_raw(out, value);
}

fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_tag(out, number, 2);
    put_raw(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
