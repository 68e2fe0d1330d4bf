//! How much a constraint may cost.

/// How much work and memory constraints may take, since they come from strangers.
///
/// The defaults take what people write and refuse within a tenth of a second what explodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a JSON schema, or of all schemas of a list of tools together.
    pub schema_bytes: usize,
    /// Bytes of a grammar, or of all choices together.
    pub grammar_bytes: usize,
    /// Bytes of a regular expression, also of one in a schema or grammar.
    pub regex_bytes: usize,
    /// Levels to which JSON may be nested.
    pub depth: usize,
    /// Properties of one object of a schema.
    pub properties: usize,
    /// Patterns and formats of a schema.
    pub patterns: usize,
    /// Intersections of regular expressions: `&` of a grammar; patterns and formats less one of a
    /// schema that combines schemas. What these cost doubles with each.
    pub intersections: usize,
    /// Optional or repeated parts of a grammar, in its regular expressions too.
    pub quantifiers: usize,
    /// Work of compiling regular expressions, in nodes made (some 50,000 a millisecond).
    pub compile_fuel: u64,
    /// Symbols of a compiled grammar.
    pub grammar_symbols: usize,
    /// Work of the lexer for one mask, in nodes made (some 14,000 a millisecond).
    pub step_fuel: u64,
    /// Items that the parser may make for one mask (some 20,000 a millisecond).
    pub step_items: usize,
    /// States of a grammar's lexer, 1 to 2 kB each, made as texts need them.
    pub lexer_states: usize,
    /// Compiled grammars that are kept.
    pub cached_grammars: usize,
    /// Bytes that the lexers of compiled grammars may take for these to be kept.
    pub cached_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            schema_bytes: 128 << 10,
            grammar_bytes: 32 << 10,
            regex_bytes: 2 << 10,
            depth: 64,
            properties: 400,
            patterns: 256,
            intersections: 5,
            quantifiers: 1000,
            compile_fuel: 500_000,
            grammar_symbols: 100_000,
            step_fuel: 100_000,
            step_items: 50_000,
            lexer_states: 20_000,
            cached_grammars: 128,
            cached_bytes: 64 << 20,
        }
    }
}
