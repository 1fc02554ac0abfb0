//! Why a job file is refused, shown where it was written: one sentence, the place, the line and a caret.
//!
//! Always true: what is shown holds no control characters, whatever the file holds, and no line wider than a screen.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use super::JOB_FILE_BYTES_MAX;

/// Characters of a source line that are shown: two thirds of a wide terminal, caret and line number included.
const SHOWN_CHARS_MAX: usize = 120;
/// Characters kept before the caret when a longer line is cut.
const SHOWN_CHARS_BEFORE: usize = 60;

/// Why a job file is refused.
#[derive(Debug, thiserror::Error)]
pub enum JobFileError {
    /// There is no such file.
    #[error("`{}` does not exist", .0.display())]
    Missing(PathBuf),
    /// It is there, but cannot be read.
    #[error("`{}` cannot be read", path.display())]
    Unreadable {
        /// The job file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// More text than a job file may have.
    #[error("`{0}` is over {JOB_FILE_BYTES_MAX} bytes; move long lists into files of their own")]
    TooLarge(String),
    /// Not text at all.
    #[error("`{0}` is not a text file: it holds bytes that are not UTF-8")]
    NotText(String),
    /// The name given in place of the file's own is not a job name.
    #[error("the name `{0}` is not valid: a job name has 1 to 63 of the characters a-z, 0-9 and -")]
    Name(String),
    /// Something in it is wrong, at a known place.
    #[error(transparent)]
    Invalid(Box<Problem>),
}

/// The kind of a mistake, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FaultCode {
    /// The text is no TOML.
    Syntax,
    /// A key that there is not.
    UnknownKey,
    /// A value of the wrong type, or keys that exclude each other.
    Type,
    /// Something that must be there is not.
    Missing,
    /// A value that is not possible.
    Value,
    /// A name of a task or output that there is not.
    Reference,
    /// Tasks that wait for each other.
    Cycle,
    /// A file that is not there or not as it should be.
    File,
    /// A template that cannot be rendered.
    Template,
    /// A parameter without a value, or with a wrong one.
    Parameter,
    /// More than is possible.
    Limit,
}

impl FaultCode {
    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::UnknownKey => "unknown-key",
            Self::Type => "type",
            Self::Missing => "missing",
            Self::Value => "value",
            Self::Reference => "reference",
            Self::Cycle => "cycle",
            Self::File => "file",
            Self::Template => "template",
            Self::Parameter => "parameter",
            Self::Limit => "limit",
        }
    }

    /// Whether the form of the file alone shows it, so that the JSON Schema does, too.
    pub const fn is_of_form(self) -> bool {
        matches!(self, Self::Syntax | Self::UnknownKey | Self::Type | Self::Missing)
    }
}

/// What is wrong at one place of a job file.
#[derive(Debug, thiserror::Error)]
pub struct Problem {
    code: FaultCode,
    message: String,
    file_name: String,
    /// From 1.
    line: usize,
    /// In characters, from 1.
    column: usize,
    shown: String,
    /// Characters of `shown` before the caret, and carets.
    caret: (usize, usize),
}

impl Problem {
    /// What is wrong, in one sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What kind of mistake it is.
    pub const fn code(&self) -> FaultCode {
        self.code
    }

    /// Line and column, each from 1; columns are characters.
    pub fn position(&self) -> (usize, usize) {
        (self.line, self.column)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gutter = self.line.to_string().len();
        let (before, carets) = self.caret;
        writeln!(f, "{}", self.message)?;
        let (file, code) = (&self.file_name, self.code.name());
        writeln!(f, "{:gutter$}--> {file}:{}:{} [{code}]", "", self.line, self.column)?;
        writeln!(f, "{:gutter$} |", "")?;
        writeln!(f, "{} | {}", self.line, self.shown)?;
        write!(f, "{:gutter$} | {:before$}{:^<carets$}", "", "", "")
    }
}

/// A sentence about a part of the text; becomes a [`Problem`] once the text is at hand.
#[derive(Debug)]
pub(crate) struct Fault {
    code: FaultCode,
    message: String,
    span: Range<usize>,
    /// Narrows the span to this text inside it, when it is there word for word.
    needle: Option<String>,
}

impl Fault {
    pub(crate) fn new(span: &Range<usize>, message: impl Into<String>) -> Self {
        Self { code: FaultCode::Value, message: message.into(), span: span.clone(), needle: None }
    }

    /// The fault is this part of the span.
    pub(super) fn within(self, needle: Option<&str>) -> Self {
        Self { needle: needle.map(str::to_owned), ..self }
    }

    /// The fault is of this kind.
    pub(crate) fn coded(self, code: FaultCode) -> Self {
        Self { code, ..self }
    }

    pub(crate) fn in_file(self, text: &str, file_name: &str) -> JobFileError {
        let span = self.narrowed(text);
        let line_start = text[..span.start].rfind('\n').map_or(0, |newline| newline + 1);
        let line = text[line_start..].split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let before = text[line_start..span.start].chars().count();
        let carets = text[span].split('\n').next().unwrap_or_default().trim_end().chars().count().max(1);
        let (shown, caret) = cut(line, before, carets);
        JobFileError::Invalid(Box::new(Problem {
            code: self.code,
            message: printable(&self.message),
            file_name: printable(file_name),
            line: text[..line_start].matches('\n').count() + 1,
            column: before + 1,
            shown,
            caret,
        }))
    }

    fn narrowed(&self, text: &str) -> Range<usize> {
        let start = text.floor_char_boundary(self.span.start);
        let end = text.ceil_char_boundary(self.span.end).max(start);
        let found = self.needle.as_ref().and_then(|needle| Some((text[start..end].find(needle)?, needle.len())));
        found.map_or(start..end, |(at, len)| start + at..start + at + len)
    }
}

/// The part of a line around its caret, and where the caret is in it.
fn cut(line: &str, before: usize, carets: usize) -> (String, (usize, usize)) {
    let (skipped, mark) = if before > SHOWN_CHARS_BEFORE && line.chars().count() > SHOWN_CHARS_MAX {
        (before - SHOWN_CHARS_BEFORE, "…")
    } else {
        (0, "")
    };
    let shown: String = line.chars().skip(skipped).take(SHOWN_CHARS_MAX).collect();
    let before = before - skipped + mark.chars().count();
    let room = SHOWN_CHARS_MAX.saturating_sub(before).max(1);
    (format!("{mark}{}", printable(&shown)), (before, carets.min(room)))
}

/// The text with one harmless character in place of each control character, so that carets stay where they belong.
fn printable(text: &str) -> String {
    let harmless = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(harmless).collect()
}

/// ``` `a`, `b` and `c` ```; "nothing" when empty.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => "nothing".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

/// `; did you mean …?` when one of the candidates is near, else nothing.
pub(crate) fn suggestion<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    // A third of the letters: one slip in a short word, a transposition and a slip in a long one.
    let letters = wrong.chars().count();
    let near = (letters / 3).max(1);
    let distance = |candidate: &&str| strsim::damerau_levenshtein(wrong, candidate);
    let best =
        candidates.into_iter().min_by_key(distance).filter(|best| distance(best) <= near && distance(best) < letters);
    best.map_or_else(String::new, |best| format!("; did you mean `{best}`?"))
}
