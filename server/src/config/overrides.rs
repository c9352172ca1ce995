//! `--set section.key=value`: single settings of a job file, from the command line.

use super::ConfigError;

/// Sets `a.b.c=value` in a table, making the tables on the way.
pub(super) fn apply(table: &mut toml::Table, given: &str) -> Result<(), ConfigError> {
    let refuse = |message: String| ConfigError::Override { given: given.to_owned(), message };
    let (key, value) = given.split_once('=').ok_or_else(|| refuse("expected key=value".to_owned()))?;
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    let last = parts.pop().filter(|last| !last.is_empty()).ok_or_else(|| refuse("expected a key".to_owned()))?;
    let mut at = table;
    for part in parts {
        let entry = at.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = entry.as_table_mut().ok_or_else(|| refuse(format!("`{part}` is a value, not a table")))?;
    }
    at.insert(last.to_owned(), parse_value(value.trim()));
    Ok(())
}

fn parse_value(text: &str) -> toml::Value {
    toml::from_str::<toml::Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()))
}
