//! Reading `tenants`: tables of what holds for one tenant instead of for all.

use std::collections::BTreeMap;

use tidings_protocol::TenantId;
use toml::{Table, Value};

use super::key::{Class, Fault, Kind};
use super::kinds;
use super::values::TenantConfig;

pub(super) const TENANTS: Kind<BTreeMap<TenantId, TenantConfig>> = Kind {
    name: "tables by tenant",
    class: Class::Value,
    read: read_tenants,
};

/// The keys of a tenant's table.
const FIELDS: [&str; 6] = [
    "name",
    "retention",
    "max_bytes",
    "publish_rate",
    "streams",
    "event_bytes",
];

fn read_tenants(value: &Value) -> Result<BTreeMap<TenantId, TenantConfig>, Fault> {
    let tables = value
        .as_table()
        .ok_or("these are tables, such as [tenants.\"<the tenant's id>\"]")?;
    let mut tenants = BTreeMap::new();
    for (id, value) in tables {
        let at = |mut fault: Fault| {
            fault.within.insert_str(0, &format!(".{id}"));
            fault
        };
        let tenant: TenantId =
            id.parse()
                .map_err(|error: tidings_protocol::tenant::InvalidTenantId| {
                    at(error.to_string().into())
                })?;
        let table = value
            .as_table()
            .ok_or_else(|| at(format!("a tenant is a table with {}", FIELDS.join(", ")).into()))?;
        let config = read_tenant(table).map_err(at)?;
        if tenants.insert(tenant, config).is_some() {
            return Err(at(
                "this tenant has a table already, with its id in another spelling".into(),
            ));
        }
    }
    Ok(tenants)
}

fn read_tenant(table: &Table) -> Result<TenantConfig, Fault> {
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
    Ok(TenantConfig {
        name: field(table, "name", &kinds::TEXT)?,
        retention: field(table, "retention", &kinds::RETENTION)?,
        max_bytes: field(table, "max_bytes", &kinds::SIZE)?,
        publish_rate: field(table, "publish_rate", &kinds::COUNT)?,
        streams: field(table, "streams", &kinds::COUNT)?,
        event_bytes: field(table, "event_bytes", &kinds::EVENT_BYTES)?,
    })
}

fn field<T>(table: &Table, name: &str, kind: &Kind<T>) -> Result<Option<T>, Fault> {
    let read = table.get(name).map(kind.read).transpose();
    read.map_err(|mut fault| {
        fault.within.insert_str(0, &format!(".{name}"));
        fault
    })
}
