//! `where`: the text of a condition, such as `label.zone in (a, b)`.
//!
//! Always true: what is read is one comparison of one attribute; sizes become bytes.
//!
//! Elsewhere: what a condition means is `swarm_protocol::Condition`.

use bytesize::ByteSize;
use swarm_protocol::{Attribute, CONDITIONS_MAX, Comparison, Condition, Strategy, Test, Where};

use super::error::{Fault, FaultCode, suggestion};
use super::keys;
use super::tree::Value;

/// Attributes without a name of their own.
const ATTRIBUTES: [&str; 5] = ["arch", "memory", "slots", "node", "version"];
/// Longer operators first: `<=` begins with `<`.
const COMPARISONS: [(&str, Comparison); 7] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("=", Comparison::Equal),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

/// Reads `where` over what the defaults said.
pub(super) fn read(value: &Value, place: &mut Where) -> Result<(), Fault> {
    let table = value.table("{ require = [\"arch = x86_64\"] }")?;
    keys::WHERE.check(table)?;
    for entry in &table.entries {
        if entry.key == "strategy" {
            place.strategy = strategy(&entry.value)?;
            continue;
        }
        let list = entry.value.list("conditions")?;
        let conditions = list.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
        match entry.key.as_str() {
            "require" => place.require = conditions,
            "prefer" => place.prefer = conditions,
            _ => place.avoid = conditions,
        }
    }
    let many = || value.fault(format!("`where` has more than {CONDITIONS_MAX} conditions")).coded(FaultCode::Limit);
    if place.conditions().count() > CONDITIONS_MAX { Err(many()) } else { Ok(()) }
}

fn strategy(value: &Value) -> Result<Strategy, Fault> {
    match value.plain()? {
        "any" => Ok(Strategy::Any),
        "spread" => Ok(Strategy::Spread),
        "pack" => Ok(Strategy::Pack),
        other => {
            let hint = suggestion(other, ["any", "spread", "pack"]);
            Err(value.fault(format!("`{other}` is no strategy; there are `any`, `spread` and `pack`{hint}")))
        }
    }
}

fn condition(value: &Value) -> Result<Condition, Fault> {
    let text = value.plain()?.trim();
    let end = text.find(|c: char| c.is_whitespace() || "=!<>(".contains(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let attribute = attribute(value, name)?;
    let test = test(value, &attribute, rest.trim())?;
    Ok(Condition { attribute, test })
}

fn attribute(value: &Value, name: &str) -> Result<Attribute, Fault> {
    Ok(match name {
        "arch" => Attribute::Arch,
        "memory" => Attribute::Memory,
        "slots" => Attribute::Slots,
        "node" => Attribute::Node,
        "version" => Attribute::Version,
        _ => match name.strip_prefix("label.") {
            Some(key) if !key.is_empty() => Attribute::Label(key.to_owned()),
            _ => {
                let hint = suggestion(name, ATTRIBUTES);
                let known = "there are `arch`, `memory`, `slots`, `node`, `version` and `label.NAME`";
                return Err(value
                    .fault(format!("`{name}` is nothing that a node says of itself; {known}{hint}"))
                    .within(Some(name)));
            }
        },
    })
}

fn test(value: &Value, attribute: &Attribute, rest: &str) -> Result<Test, Fault> {
    let word = |word: &str| {
        let after = rest.strip_prefix(word)?;
        (after.is_empty() || after.starts_with(|c: char| c.is_whitespace() || c == '(')).then(|| after.trim())
    };
    if word("exists") == Some("") {
        return Ok(Test::Exists);
    }
    if let Some(after) = word("in") {
        return Ok(Test::In(list(value, attribute, after)?));
    }
    if let Some(after) = word("not").and_then(|after| after.strip_prefix("in")) {
        return Ok(Test::NotIn(list(value, attribute, after.trim())?));
    }
    let found = COMPARISONS.iter().find_map(|(sign, comparison)| Some((*comparison, rest.strip_prefix(sign)?)));
    let Some((comparison, operand)) = found else {
        let signs = "`=`, `!=`, `<`, `<=`, `>`, `>=`, `in (…)`, `not in (…)` or `exists`";
        return Err(value.fault(format!("a condition needs one of {signs} after `{attribute}`")));
    };
    Ok(Test::Compares(comparison, operand_of(value, attribute, operand.trim())?))
}

/// `(a, b)`
fn list(value: &Value, attribute: &Attribute, text: &str) -> Result<Vec<String>, Fault> {
    let inside = text.strip_prefix('(').and_then(|text| text.strip_suffix(')'));
    let shape = || value.fault(format!("`in` needs a list in parentheses, as in `{attribute} in (a, b)`"));
    let items = inside.ok_or_else(shape)?.split(',').map(str::trim);
    items.map(|item| operand_of(value, attribute, item)).collect()
}

fn operand_of(value: &Value, attribute: &Attribute, text: &str) -> Result<String, Fault> {
    let bare = text.strip_prefix(['"', '\'']).and_then(|text| text.strip_suffix(['"', '\''])).unwrap_or(text);
    if bare.is_empty() {
        return Err(value.fault(format!("a value is missing after `{attribute}`")));
    }
    if bare.contains(|c: char| c.is_whitespace() || "()=<>!,".contains(c))
        && bare == text
        && *attribute != Attribute::Memory
    {
        return Err(value.fault(format!("`{bare}` is no single value; quote it if it is meant so")).within(Some(bare)));
    }
    let size = || bare.parse::<ByteSize>().map(|size| size.as_u64().to_string());
    match attribute {
        Attribute::Memory => {
            size().map_err(|_| value.fault(format!("`{bare}` is no size such as `4GiB`")).within(Some(bare)))
        }
        Attribute::Slots if bare.parse::<u32>().is_err() => {
            Err(value.fault(format!("`{bare}` is no number of slots")).within(Some(bare)))
        }
        _ => Ok(bare.to_owned()),
    }
}
