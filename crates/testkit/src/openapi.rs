//! The published description of OpenAI's API, and whether a value is what it describes.
//!
//! Of JSON schema this knows what the description uses for responses. A `oneOf` is met by any of its
//! branches, since the description's own overlap.

use serde_json::Value;

use crate::shared;

/// The description.
pub struct Description(Value);

impl Description {
    /// Reads it; `None` where the reference data is absent.
    ///
    /// # Panics
    /// If it is not JSON, or absent in CI.
    pub fn load() -> Option<Self> {
        let text = std::fs::read(shared("data/openapi/openapi.json")?).expect("it can be read");
        Some(Self(serde_json::from_slice(&text).expect("it is JSON")))
    }

    /// Whether a value is what the schema of this name describes.
    ///
    /// # Errors
    /// Where it is not, and why.
    ///
    /// # Panics
    /// If there is no such schema.
    pub fn check(&self, schema: &str, value: &Value) -> Result<(), String> {
        self.matches(self.schema(schema), value, schema)
    }

    fn schema(&self, name: &str) -> &Value {
        let schema = &self.0["components"]["schemas"][name];
        assert!(schema.is_object(), "the description has no schema {name}");
        schema
    }

    fn matches(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        if value.is_null() && schema["nullable"] == true {
            return Ok(());
        }
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.strip_prefix("#/components/schemas/").expect("references are local");
            self.matches(self.schema(name), value, at)?;
        }
        let fail = |why: String| Err(format!("{at}: {why}, got {value}"));
        if let Some(allowed) = schema["enum"].as_array()
            && !allowed.contains(value)
        {
            return fail(format!("must be one of {}", schema["enum"]));
        }
        let types = match &schema["type"] {
            Value::String(one) => vec![one.as_str()],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if !types.is_empty() && !types.iter().any(|t| is_of(value, t)) {
            return fail(format!("must be {}", schema["type"]));
        }
        for part in list(schema, "allOf") {
            self.matches(part, value, at)?;
        }
        for alternatives in ["anyOf", "oneOf"] {
            let branches = list(schema, alternatives);
            let errors: Vec<String> =
                branches.iter().filter_map(|b| self.matches(b, value, at).err()).collect();
            if !branches.is_empty() && errors.len() == branches.len() {
                // The error of the branch that came furthest says most.
                let deepest = errors.iter().max_by_key(|e| e.find(": ")).expect("not empty");
                return Err(deepest.clone());
            }
        }
        let number = value.as_f64();
        let below = number.zip(schema["minimum"].as_f64()).is_some_and(|(v, min)| v < min);
        let above = number.zip(schema["maximum"].as_f64()).is_some_and(|(v, max)| v > max);
        if below || above {
            return fail("out of range".to_owned());
        }
        if let Value::Array(items) = value {
            let least = schema["minItems"].as_u64().unwrap_or(0);
            let most = schema["maxItems"].as_u64().unwrap_or(u64::MAX);
            if !(least..=most).contains(&(items.len() as u64)) {
                return fail(format!("must have {least} to {most} items"));
            }
            if schema["items"].is_object() {
                for (i, item) in items.iter().enumerate() {
                    self.matches(&schema["items"], item, &format!("{at}[{i}]"))?;
                }
            }
        }
        if let Value::Object(map) = value {
            for name in list(schema, "required").iter().filter_map(Value::as_str) {
                if !map.contains_key(name) {
                    return fail(format!("must have '{name}'"));
                }
            }
            for (name, value) in map {
                let property = &schema["properties"][name];
                let other = &schema["additionalProperties"];
                if property.is_object() {
                    self.matches(property, value, &format!("{at}.{name}"))?;
                } else if other.is_object() {
                    self.matches(other, value, &format!("{at}.{name}"))?;
                } else if other == &Value::Bool(false) {
                    return fail(format!("must not have '{name}'"));
                }
            }
        }
        Ok(())
    }
}

fn list<'a>(schema: &'a Value, key: &str) -> &'a [Value] {
    schema[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_f64().is_some_and(|f| f.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}
