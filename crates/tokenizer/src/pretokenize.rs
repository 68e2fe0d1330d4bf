//! Cutting text into words before byte-level BPE, by the name of the pre-tokenizer.
//!
//! Each pre-tokenizer is a chain of steps; a step cuts every piece that the one before left, and
//! what a step does not match stays a piece of its own. The expressions are those of the models'
//! `tokenizer.json` where known, else llama.cpp's (`llama-vocab.cpp`), and the names are
//! llama.cpp's.
//!
//! `\s+(?!\S)` (white space, but for the last character when a word follows) is written without
//! look-ahead: a step says that its last alternative is white space, and such a match gives back
//! its last character. So every step runs in linear time whatever the text.

use regex_automata::meta::Regex;

use crate::Error;

/// One step of a pre-tokenizer.
enum Step {
    /// Matches are pieces, and so is what lies between them.
    Cut(String, Regex),
    /// The same, and runs of white space that no other alternative matched are pieces without
    /// their last character if text follows.
    CutSpaces(String, Regex),
    /// Runs of digits in groups of three counted from the right.
    DigitsFromRight,
    /// Everything between newlines, and each run of newlines.
    Lines,
}

/// What a pre-tokenizer's name stands for.
pub(crate) struct PreTokenizer {
    steps: Vec<Step>,
}

/// What else the name says, as in llama.cpp.
#[derive(Clone, Copy, Default)]
pub(crate) struct Traits {
    /// A word that is a token is taken whole.
    pub(crate) ignore_merges: bool,
    /// BOS goes in front unless the file says otherwise.
    pub(crate) add_bos: bool,
    /// SEP goes behind unless the file says otherwise.
    pub(crate) add_sep: bool,
    /// There is no BOS unless the file names one.
    pub(crate) no_bos: bool,
    /// Spaces are `▁` and the symbols are characters.
    pub(crate) characters: bool,
}

// The alternatives that most expressions share.
const CONTRACTION: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+";
const LETTERS: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+";
const OTHER: &str = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+";
const CASED: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+#|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*#";
const OTHER_SLASH: &str = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+";
const ASCII_PUNCTUATED: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"##;
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const CJK_KANA: &str = "[一-龥぀-ゟ゠-ヿ]+";
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}",
    r"\x{1C4}-\x{293}\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}",
    r"\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}",
    r"\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}",
    r"\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}",
    r"\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}",
    r"\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}",
    r"\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}",
    r"\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}",
    r"\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}",
    r"\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}",
    r"\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}",
    r"\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}",
    r"\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}",
    r"\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}",
    r"\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}",
    r"\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+",
);

fn regex(patterns: &[&str]) -> Regex {
    Regex::new_many(patterns).expect("the expressions are constants and a test builds them all")
}

/// A step whose expression matches no bare white space.
fn cut(pattern: &str) -> Step {
    Step::Cut(pattern.to_owned(), regex(&[pattern]))
}

/// A step that ends in `|\s+(?!\S)|\s+`.
fn cut_spaces(pattern: &str) -> Step {
    Step::CutSpaces(pattern.to_owned(), regex(&[pattern, r"\s+"]))
}

/// `CASED` with `suffix` behind each of its two alternatives.
fn cased(suffix: &str) -> String {
    CASED.replace('#', suffix)
}

impl PreTokenizer {
    /// The pre-tokenizer of that name and what else the name says.
    ///
    /// # Errors
    /// [`Error::UnknownPreTokenizer`].
    pub(crate) fn named(name: &str) -> Result<(Self, Traits), Error> {
        let plain = Traits::default();
        let whole = Traits { ignore_merges: true, ..plain };
        let llama3 = format!(r"{CONTRACTION}|{LETTERS}|\p{{N}}{{1,3}}|{OTHER}");
        let qwen2 = format!(r"{CONTRACTION}|{LETTERS}|\p{{N}}|{OTHER}");
        let (steps, traits) = match name {
            "default" => (
                vec![
                    cut(r"[\p{P}\$\+<=>\^~\|]+"),
                    cut_spaces(GPT2),
                    cut(r"\p{N}+"),
                    cut("[0-9][0-9][0-9]"),
                ],
                plain,
            ),
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral"
            | "midm-2.0" | "lfm2" | "jina-v5-nano" => {
                (vec![cut_spaces(&llama3)], Traits { add_bos: true, ..whole })
            }
            "dbrx" | "smaug-bpe" => (vec![cut_spaces(&llama3)], plain),
            "chatglm-bpe" => (vec![cut_spaces(&llama3)], Traits { no_bos: true, ..plain }),
            "glm4" | "glm5" => (vec![cut_spaces(&llama3)], Traits { no_bos: true, ..whole }),
            "minicpm5" => (
                vec![
                    cut(r"\p{N}{1,3}"),
                    cut_spaces(&format!(r"{CONTRACTION}|{LETTERS}|\p{{N}}+|{OTHER}")),
                ],
                whole,
            ),
            "jais-2" => {
                // Runs of white space in powers of two: the greatest that fits, again and again.
                let spaces = [512, 256, 128, 64, 32, 16, 8, 4, 2, 1].map(|n| format!(r"\s{{{n}}}"));
                (vec![cut(&format!("{llama3}|{}", spaces.join("|")))], plain)
            }
            "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "stablelm2"
            | "hunyuan" | "solar-open" | "grok-2" => (vec![cut_spaces(&qwen2)], plain),
            "qwen35" => (
                vec![cut_spaces(&format!(
                    r"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
                ))],
                plain,
            ),
            "ufakzeka" => (vec![cut_spaces(&format!(r"{LETTERS}|\p{{N}}|{OTHER}"))], plain),
            "laguna" => (vec![Step::Lines, cut_spaces(&qwen2)], plain),
            "seed-coder" => (
                vec![cut_spaces(&format!(
                    r"{CONTRACTION}|{LETTERS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+"
                ))],
                plain,
            ),
            "exaone-moe" => (
                vec![cut_spaces(&format!(
                    r"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|\s*[\r\n]"
                ))],
                plain,
            ),
            "bailingmoe" | "bailingmoe2" | "llada-moe" => (
                vec![cut_spaces(&format!(
                    r"'(?i:[sdmt]|ll|ve|re)|{LETTERS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]"
                ))],
                plain,
            ),
            "deepseek-llm" => (
                vec![
                    cut(r"[\r\n]"),
                    cut(DEEPSEEK_LETTERS),
                    cut(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
                    cut(r"\s+$"),
                    cut("[一-龥ࠀ-一가-퟿]+"),
                    cut(r"\p{N}+"),
                ],
                plain,
            ),
            "deepseek-coder" => (
                vec![
                    cut(r"[\r\n]"),
                    cut(r"\s?\p{L}+"),
                    cut(r"\s?\p{P}+"),
                    cut("[一-龥ࠀ-一가-퟿]+"),
                    cut(r"\p{N}"),
                ],
                plain,
            ),
            "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => (
                vec![
                    cut(r"\p{N}{1,3}"),
                    cut(CJK_KANA),
                    cut_spaces(&format!(r"{ASCII_PUNCTUATED}[\r\n]*|\s*[\r\n]+")),
                ],
                plain,
            ),
            "spark2_5" => (
                vec![
                    cut(r"\p{N}{1,3}"),
                    cut(CJK_KANA),
                    cut_spaces(&format!(r"{ASCII_PUNCTUATED}|[\r\n]")),
                    cut(r"\p{N}"),
                ],
                plain,
            ),
            "afmoe" => (
                vec![
                    Step::DigitsFromRight,
                    cut("[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+"),
                    cut_spaces(&format!(r"{ASCII_PUNCTUATED}[\r\n]*|\s*[\r\n]+")),
                ],
                plain,
            ),
            "youtu" => (
                vec![
                    cut("[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"),
                    cut_spaces(&format!(
                        r"{}|\p{{N}}|{OTHER_SLASH}",
                        cased(&format!("{CONTRACTION}?"))
                    )),
                ],
                whole,
            ),
            "falcon" => (
                vec![cut(r"[\p{P}\$\+<=>\^~\|`]+"), cut_spaces(GPT2), cut("[0-9][0-9][0-9]")],
                plain,
            ),
            "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone"
            | "minerva-7b" | "mellum2" => (vec![cut(r"\p{N}"), cut_spaces(GPT2)], plain),
            "gpt-2" | "phi-2" | "jina-es" | "jina-de" | "gigachat" | "jina-v2-es"
            | "jina-v2-de" | "a.x-4.0" | "mellum" | "modern-bert" | "mpt" | "olmo" | "jais"
            | "trillion" | "granite-docling" | "exaone4" => (vec![cut_spaces(GPT2)], plain),
            "jina-v1-en" | "jina-v2-code" | "roberta-bpe" => {
                (vec![cut_spaces(GPT2)], Traits { add_sep: true, ..plain })
            }
            "bloom" | "poro-chat" | "gpt3-finnish" => (vec![cut(BLOOM)], plain),
            "viking" => (vec![cut(BLOOM), cut(r"\p{N}")], plain),
            "tekken" => (
                vec![cut_spaces(&format!(r"{}|\p{{N}}|{OTHER_SLASH}", cased("")))],
                Traits { add_bos: true, ..whole },
            ),
            "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => (
                vec![cut_spaces(&format!(
                    r"{}|\p{{N}}{{1,3}}|{OTHER_SLASH}",
                    cased(&format!("{CONTRACTION}?"))
                ))],
                plain,
            ),
            "granite-embed-multi-97m" => (
                vec![cut_spaces(&format!(
                    r"{}|\p{{N}}{{1,3}}|{OTHER_SLASH}",
                    cased(&format!("{CONTRACTION}?"))
                ))],
                whole,
            ),
            "tiny_aya" | "cohere2moe" => (
                vec![
                    Step::DigitsFromRight,
                    cut_spaces(&format!(
                        r"{}|\p{{N}}{{1,3}}|{OTHER_SLASH}",
                        cased(&format!("{CONTRACTION}?"))
                    )),
                ],
                plain,
            ),
            "kimi-k2" => {
                let no_han = cased(&format!("{CONTRACTION}?"))
                    .replace(r"\p{Lm}\p{Lo}\p{M}]", r"\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]");
                (vec![cut_spaces(&format!(r"\p{{Han}}+|{no_han}|\p{{N}}{{1,3}}|{OTHER}"))], plain)
            }
            "superbpe" => (vec![cut(r"\p{N}+"), Step::DigitsFromRight], plain),
            "chameleon" => (
                vec![
                    cut("<sentinel:[0-9]+>"),
                    cut("(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"),
                    cut(r"[\t\n]|    |  "),
                    cut(r"\p{N}"),
                    cut(r"[\p{P}!-/:-@\[-`{-~]"),
                    cut_spaces(GPT2),
                ],
                Traits { add_bos: true, ..plain },
            ),
            "gemma4" | "granite-embed-multi-311m" => {
                (vec![Step::Lines], Traits { characters: true, add_bos: true, ..plain })
            }
            "sarvam-moe" => (vec![Step::Lines], Traits { characters: true, ..plain }),
            _ => return Err(Error::UnknownPreTokenizer { pre: name.to_owned() }),
        };
        Ok((PreTokenizer { steps }, traits))
    }

    /// The expressions that cut as the steps do, one after another, for engines with look-ahead.
    pub(crate) fn expressions(&self) -> Vec<String> {
        let expression = |step: &Step| match step {
            Step::Cut(pattern, _) => pattern.clone(),
            Step::CutSpaces(pattern, _) => format!(r"{pattern}|\s+(?!\S)|\s+"),
            Step::DigitsFromRight => r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))".to_owned(),
            Step::Lines => r"[^\n]+|\n+".to_owned(),
        };
        self.steps.iter().map(expression).collect()
    }

    /// Calls `word` with the pieces of `text`, in order; together they are the text.
    pub(crate) fn words(&self, text: &str, word: &mut dyn FnMut(&str)) {
        run(&self.steps, text, word);
    }
}

fn run(steps: &[Step], text: &str, word: &mut dyn FnMut(&str)) {
    if text.is_empty() {
        return;
    }
    let Some((step, rest)) = steps.split_first() else {
        return word(text);
    };
    match step {
        Step::Cut(_, regex) | Step::CutSpaces(_, regex) => {
            let spaces = matches!(step, Step::CutSpaces(..));
            let mut done = 0; // pieces end here
            let mut at = 0; // the search goes on from here
            while at < text.len() {
                let input = regex_automata::Input::new(text).span(at..text.len());
                let Some(found) = regex.search(&input) else { break };
                let (start, mut end) = (found.start(), found.end());
                if spaces && found.pattern().as_usize() == 1 && end < text.len() {
                    let last = text[start..end].char_indices().next_back().map_or(0, |(i, _)| i);
                    if last > 0 {
                        end = start + last;
                    }
                }
                if end == start {
                    // No expression matches nothing; this is for safety alone.
                    at = end + text[end..].chars().next().map_or(1, char::len_utf8);
                    continue;
                }
                run(rest, &text[done..start], word);
                run(rest, &text[start..end], word);
                (done, at) = (end, end);
            }
            run(rest, &text[done..], word);
        }
        Step::DigitsFromRight => groups(text, char::is_numeric, |run_of, digits| {
            if !digits {
                return run(rest, run_of, word);
            }
            let starts: Vec<usize> = run_of.char_indices().map(|(i, _)| i).collect();
            let (mut from, mut at) = (0, starts.len() % 3);
            while at < starts.len() {
                run(rest, &run_of[from..starts[at]], word);
                (from, at) = (starts[at], at + 3);
            }
            run(rest, &run_of[from..], word);
        }),
        Step::Lines => groups(text, |c| c == '\n', |piece, _| run(rest, piece, word)),
    }
}

/// Calls `piece` with each maximal run of characters for which `class` is the same.
fn groups(text: &str, class: impl Fn(char) -> bool, mut piece: impl FnMut(&str, bool)) {
    let mut start = 0;
    let mut current = None;
    for (i, c) in text.char_indices() {
        let this = class(c);
        if current.is_some_and(|was| was != this) {
            piece(&text[start..i], !this);
            start = i;
        }
        current = Some(this);
    }
    if let Some(was) = current {
        piece(&text[start..], was);
    }
}

/// Every name that [`PreTokenizer::named`] knows.
pub(crate) const NAMES: &[&str] = &[
    "default",
    "llama3",
    "llama-v3",
    "llama-bpe",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "jina-v5-nano",
    "dbrx",
    "smaug-bpe",
    "chatglm-bpe",
    "glm4",
    "glm5",
    "minicpm5",
    "jais-2",
    "qwen2",
    "deepseek-r1-qwen",
    "kormo",
    "f2llmv2",
    "megrez",
    "stablelm2",
    "hunyuan",
    "solar-open",
    "grok-2",
    "qwen35",
    "ufakzeka",
    "laguna",
    "seed-coder",
    "exaone-moe",
    "bailingmoe",
    "bailingmoe2",
    "llada-moe",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "hunyuan-dense",
    "joyai-llm",
    "hy_v4",
    "spark2_5",
    "afmoe",
    "youtu",
    "falcon",
    "starcoder",
    "refact",
    "command-r",
    "smollm",
    "codeshell",
    "exaone",
    "minerva-7b",
    "mellum2",
    "gpt-2",
    "phi-2",
    "jina-es",
    "jina-de",
    "gigachat",
    "jina-v2-es",
    "jina-v2-de",
    "a.x-4.0",
    "mellum",
    "modern-bert",
    "mpt",
    "olmo",
    "jais",
    "trillion",
    "granite-docling",
    "exaone4",
    "jina-v1-en",
    "jina-v2-code",
    "roberta-bpe",
    "bloom",
    "poro-chat",
    "gpt3-finnish",
    "viking",
    "tekken",
    "gpt-4o",
    "llama4",
    "kanana2",
    "talkie",
    "minimax-m2",
    "granite-embed-multi-97m",
    "tiny_aya",
    "cohere2moe",
    "kimi-k2",
    "superbpe",
    "chameleon",
    "gemma4",
    "granite-embed-multi-311m",
    "sarvam-moe",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn words(name: &str, text: &str) -> Vec<String> {
        let mut out = Vec::new();
        PreTokenizer::named(name).unwrap().0.words(text, &mut |w| out.push(w.to_owned()));
        out
    }

    #[test]
    fn every_name_builds_and_loses_nothing() {
        let text = "Hello,  wörld!\n\n 12345 it's I'LL don't\t\tx 日本語テキスト 한국어 🦙 (a|b) e\u{301}…  ";
        for name in NAMES {
            assert_eq!(words(name, text).concat(), text, "{name}");
        }
    }

    /// Made with `tokenizers.pre_tokenizers.Split(Regex(...), "isolated")` over the expressions of
    /// the models' own `tokenizer.json`.
    #[test]
    fn words_are_those_of_the_models() {
        assert_eq!(words("gpt-2", "a  b\n\nc  "), ["a", " ", " b", "\n", "\n", "c", "  "]);
        assert_eq!(words("llama-bpe", "a  b\n\nc  "), ["a", " ", " b", "\n\n", "c", "  "]);
        assert_eq!(words("llama-bpe", "12345\tx\t\ty"), ["123", "45", "\tx", "\t", "\ty"]);
        assert_eq!(words("qwen2", "I'LL 12"), ["I", "'LL", " ", "1", "2"]);
        assert_eq!(words("gpt-4o", "HelloWorld's"), ["Hello", "World's"]);
        assert_eq!(words("tiny_aya", "1234567"), ["1", "234", "567"]);
        assert_eq!(words("kimi-k2", "ab日本cd"), ["ab", "日本", "cd"]);
    }

    #[test]
    fn a_megabyte_of_anything_is_linear() {
        let start = std::time::Instant::now();
        for text in ["a".repeat(1 << 20), " ".repeat(1 << 20), "\n ".repeat(1 << 19)] {
            for name in ["gpt-2", "llama-bpe", "deepseek-v3", "tekken"] {
                assert_eq!(words(name, &text).concat().len(), text.len());
            }
        }
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}
