//! Reading `auth.jwt.issuers`: a table for each further issuer of access tokens.

use std::collections::BTreeMap;
use std::path::PathBuf;

use http::Uri;
use jsonwebtoken::Algorithm;
use tidings_protocol::TenantId;
use toml::{Table, Value};

use super::access::ClaimNames;
use super::key::{Class, Fault, Kind};
use super::kinds;
use super::publishers::bound;
use super::values::Bound;

/// An issuer of access tokens, one entry of `auth.jwt.issuers`. What is absent is as in `auth.jwt`.
#[derive(Clone, Debug)]
pub struct IssuerConfig {
    /// What `iss` says.
    pub issuer: String,
    /// What `aud` must be or contain.
    pub audience: Option<String>,
    /// The algorithms that are accepted.
    pub algorithms: Option<Vec<Algorithm>>,
    /// A file with a shared secret.
    pub secret_file: Option<PathBuf>,
    /// A PEM file with public keys.
    pub public_key_file: Option<PathBuf>,
    /// A file with a JWKS.
    pub jwks_file: Option<PathBuf>,
    /// Where the issuer publishes its JWKS.
    pub jwks_url: Option<Uri>,
    /// Names of claims that differ, by their setting.
    pub claims: BTreeMap<String, String>,
    /// What the issuer's roles are called here.
    pub roles: Option<BTreeMap<String, String>>,
    /// The tenants that it may speak for.
    pub tenants: Bound<TenantId>,
}

pub(super) const ISSUERS: Kind<Vec<IssuerConfig>> = Kind {
    name: "list of issuers",
    class: Class::Value,
    read: read_issuers,
};

const FIELDS: [&str; 10] = [
    "issuer",
    "audience",
    "algorithms",
    "secret_file",
    "public_key_file",
    "jwks_file",
    "jwks_url",
    "claims",
    "roles",
    "tenants",
];

fn read_issuers(value: &Value) -> Result<Vec<IssuerConfig>, Fault> {
    let items = value.as_array().ok_or("this is a list of tables")?;
    let read = |(index, item): (usize, &Value)| {
        let at = |mut fault: Fault| {
            fault.within.insert_str(0, &format!("[{index}]"));
            fault
        };
        let table = item.as_table().ok_or_else(|| {
            at("an issuer is a table with issuer, tenants and one of jwks_url, jwks_file, public_key_file, secret_file".into())
        })?;
        read_issuer(table).map_err(at)
    };
    items.iter().enumerate().map(read).collect()
}

fn read_issuer(table: &Table) -> Result<IssuerConfig, Fault> {
    if let Some(name) = table.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        return Err(unknown(name, &FIELDS));
    }
    let issuer = IssuerConfig {
        issuer: required(table, "issuer", kinds::TEXT.read)?,
        audience: field(table, "audience", kinds::TEXT.read)?,
        algorithms: field(table, "algorithms", kinds::ALGORITHMS.read)?,
        secret_file: field(table, "secret_file", kinds::PATH.read)?,
        public_key_file: field(table, "public_key_file", kinds::PATH.read)?,
        jwks_file: field(table, "jwks_file", kinds::PATH.read)?,
        jwks_url: field(table, "jwks_url", kinds::OPTIONAL_HTTP_URL.read)?.flatten(),
        claims: field(table, "claims", read_claims)?.unwrap_or_default(),
        roles: field(table, "roles", kinds::ROLES.read)?,
        tenants: required(table, "tenants", |value| Ok(bound(value)?))?,
    };
    let has_key = issuer.secret_file.is_some()
        || issuer.public_key_file.is_some()
        || issuer.jwks_file.is_some()
        || issuer.jwks_url.is_some();
    if has_key {
        Ok(issuer)
    } else {
        Err(
            "the issuer has no key; give jwks_url, jwks_file, public_key_file or secret_file"
                .into(),
        )
    }
}

fn read_claims(value: &Value) -> Result<BTreeMap<String, String>, Fault> {
    let table = value
        .as_table()
        .ok_or("this is a table of names, as auth.jwt.claims is")?;
    let mut claims = BTreeMap::new();
    for (setting, value) in table {
        if !ClaimNames::SETTINGS.contains(&setting.as_str()) {
            return Err(unknown(setting, &ClaimNames::SETTINGS));
        }
        let name = (kinds::CLAIM.read)(value).map_err(|fault| within(setting, fault))?;
        claims.insert(setting.clone(), name);
    }
    Ok(claims)
}

fn unknown(name: &str, fields: &[&str]) -> Fault {
    let nearest = fields
        .iter()
        .min_by_key(|field| strsim::damerau_levenshtein(name, field))
        .expect("there are fields");
    Fault {
        within: format!(".{name}"),
        problem: format!("there is no such key; did you mean {nearest}?"),
    }
}

fn required<T>(
    table: &Table,
    name: &str,
    read: impl Fn(&Value) -> Result<T, Fault>,
) -> Result<T, Fault> {
    field(table, name, read)?.ok_or_else(|| within(name, "this is missing".into()))
}

fn field<T>(
    table: &Table,
    name: &str,
    read: impl Fn(&Value) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    let read = table.get(name).map(read).transpose();
    read.map_err(|fault| within(name, fault))
}

fn within(name: &str, mut fault: Fault) -> Fault {
    fault.within.insert_str(0, &format!(".{name}"));
    fault
}
