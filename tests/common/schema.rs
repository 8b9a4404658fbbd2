//! As much of JSON Schema as the API's document uses. A keyword that is not known here is a failure, not a pass.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

/// The API's document.
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> =
        LazyLock::new(|| serde_json::from_str(include_str!("../../src/api/openapi.json")).unwrap());
    &DOCUMENT
}

/// Holds an event that an agent sent to the document.
pub fn check_event(event: &Value) {
    check(document(), &json!({"$ref": "#/components/schemas/Event"}), event, "event");
}

/// Holds a value to a schema of `document`; in the message, `at` is where the value was found.
pub fn check(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Err(fault) = fits(document, schema, value) {
        panic!("{at}{fault}\n{value:#}");
    }
}

fn fits(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let rules = schema.as_object().ok_or("the schema is no object")?;
    for (keyword, rule) in rules {
        let holds = match keyword.as_str() {
            "description" | "summary" | "properties" | "propertyNames" | "additionalProperties" => true,
            "$ref" => {
                let pointer = rule.as_str().and_then(|rule| rule.strip_prefix('#')).ok_or("a foreign $ref")?;
                return fits(document, document.pointer(pointer).ok_or(format!("no {pointer}"))?, value);
            }
            "type" => is_of(rule, value),
            "const" => rule == value,
            "enum" => rule.as_array().is_some_and(|values| values.contains(value)),
            "minimum" => value.as_f64() >= rule.as_f64(),
            "maxItems" => value.as_array().is_some_and(|items| items.len() as u64 <= rule.as_u64().unwrap()),
            "format" => has_format(rule, value)?,
            "pattern" => has_pattern(rule, value)?,
            "required" => {
                let missing =
                    rule.as_array().into_iter().flatten().find(|key| value.get(key.as_str().unwrap()).is_none());
                match missing {
                    Some(key) => return Err(format!(": {key} is missing")),
                    None => true,
                }
            }
            "items" => {
                for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                    fits(document, rule, item).map_err(|fault| format!("[{n}]{fault}"))?;
                }
                true
            }
            "oneOf" => {
                let ways = rule.as_array().into_iter().flatten();
                let faults: Vec<_> = ways.clone().filter_map(|way| fits(document, way, value).err()).collect();
                if ways.count() != faults.len() + 1 {
                    return Err(format!(": not one of the ways: {}", faults.join(" | ")));
                }
                true
            }
            other => return Err(format!(": the test does not know the keyword {other}")),
        };
        if !holds {
            return Err(format!(": not {keyword} {rule}"));
        }
    }
    match value.as_object() {
        Some(object) => properties(document, rules, object),
        None => Ok(()),
    }
}

/// Each member of an object; where the schema lists properties, there are no others.
fn properties(document: &Value, rules: &Map<String, Value>, object: &Map<String, Value>) -> Result<(), String> {
    for (key, value) in object {
        if let Some(names) = rules.get("propertyNames") {
            fits(document, names, &Value::String(key.clone()))?;
        }
        let listed = rules.get("properties").and_then(|listed| listed.get(key));
        match listed.or(rules.get("additionalProperties")) {
            Some(schema) => fits(document, schema, value).map_err(|fault| format!(".{key}{fault}"))?,
            None if rules.contains_key("properties") => return Err(format!(".{key}: not in the document")),
            None => {}
        }
    }
    Ok(())
}

fn is_of(rule: &Value, value: &Value) -> bool {
    if let Some(types) = rule.as_array() {
        return types.iter().any(|rule| is_of(rule, value));
    }
    match rule.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("no type {other}"),
    }
}

fn has_format(rule: &Value, value: &Value) -> Result<bool, String> {
    match rule.as_str() {
        Some("date-time") => Ok(value.as_str().is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok())),
        _ => Err(format!(": the test does not know the format {rule}")),
    }
}

/// The patterns are those of types of ours, which know them.
fn has_pattern(rule: &Value, value: &Value) -> Result<bool, String> {
    let text = value.as_str().unwrap_or_default();
    match rule.as_str() {
        Some("^sha256:[0-9a-f]{64}$") => Ok(text.parse::<eci_agent::oci::Digest>().is_ok()),
        Some("^[a-z0-9][a-z0-9._-]{0,62}$") => Ok(text.parse::<eci_agent::desired::WorkloadName>().is_ok()),
        _ => Err(format!(": the test does not know the pattern {rule}")),
    }
}
