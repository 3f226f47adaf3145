//! Reading `auth.publishers`, the one setting that is made of tables.

use toml::{Table, Value};

use super::key::{Class, Fault, Kind};
use super::kinds::{parsed, text};
use super::values::{Bound, PublisherConfig, is_publisher_id};

pub(super) const PUBLISHERS: Kind<Vec<PublisherConfig>> = Kind {
    name: "list of publishers",
    class: Class::Value,
    read: read_publishers,
};

fn read_publishers(value: &Value) -> Result<Vec<PublisherConfig>, Fault> {
    let items = value.as_array().ok_or("this is a list of tables")?;
    let mut publishers: Vec<PublisherConfig> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let at = |mut fault: Fault| {
            fault.within.insert_str(0, &format!("[{index}]"));
            fault
        };
        let table = item.as_table().ok_or_else(|| {
            at("a publisher is a table with id, secret_sha256, tenants and types".into())
        })?;
        let publisher = read_publisher(table).map_err(at)?;
        if publishers.iter().any(|other| other.id == publisher.id) {
            return Err(at(Fault {
                within: ".id".to_owned(),
                problem: format!("there is a publisher {} already", publisher.id),
            }));
        }
        publishers.push(publisher);
    }
    Ok(publishers)
}

fn read_publisher(table: &Table) -> Result<PublisherConfig, Fault> {
    const FIELDS: [&str; 4] = ["id", "secret_sha256", "tenants", "types"];
    if let Some(name) = table.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        let nearest = FIELDS
            .iter()
            .min_by_key(|field| strsim::damerau_levenshtein(name, field))
            .expect("there are fields");
        return Err(Fault {
            within: format!(".{name}"),
            problem: format!("there is no such key; did you mean {nearest}?"),
        });
    }
    Ok(PublisherConfig {
        id: field(table, "id", publisher_id)?.into(),
        secret_sha256: field(table, "secret_sha256", sha256)?,
        tenants: field(table, "tenants", bound)?,
        types: if table.contains_key("types") {
            field(table, "types", bound)?
        } else {
            Bound::All
        },
    })
}

fn field<T>(
    table: &Table,
    name: &str,
    read: impl Fn(&Value) -> Result<T, String>,
) -> Result<T, Fault> {
    let within = || format!(".{name}");
    let value = table.get(name).ok_or_else(|| Fault {
        within: within(),
        problem: "this is missing".to_owned(),
    })?;
    read(value).map_err(|problem| Fault {
        within: within(),
        problem,
    })
}

fn publisher_id(value: &Value) -> Result<String, String> {
    let id = text(value)?;
    if is_publisher_id(id) {
        Ok(id.to_owned())
    } else {
        Err("a publisher's id has 1 to 64 letters, digits, dots and hyphens".to_owned())
    }
}

fn sha256(value: &Value) -> Result<[u8; 32], String> {
    let digits = text(value)?;
    let problem = || "this is no SHA-256, which is 64 hexadecimal digits".to_owned();
    if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(problem());
    }
    let mut hash = [0; 32];
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).map_err(|_| problem())?;
    }
    Ok(hash)
}

/// `"*"`, or a list.
pub(super) fn bound<T>(value: &Value) -> Result<Bound<T>, String>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    match value {
        Value::String(all) if all == "*" => Ok(Bound::All),
        Value::Array(items) => items
            .iter()
            .map(parsed::<T>)
            .collect::<Result<_, _>>()
            .map(Bound::Only),
        _ => Err("this is a list, or \"*\" for all".to_owned()),
    }
}
