//! Revocations: whose access tokens are good no more, if they were issued up to a certain time.
//!
//! What is revoked is told by its [`key`](Revoked::key), under which it is stored here and shared between nodes.

use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tidings_protocol::TenantId;

use super::claims::is_bounded_text;
use super::identity::Identity;

/// Whose access tokens are revoked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revoked {
    /// Those of everybody with this user id: in every tenant, super admins too.
    User(Arc<str>),
    /// Those of this tenant's user, who is no super admin.
    UserOf(TenantId, Arc<str>),
    /// Those of everybody of this tenant who is no super admin.
    Tenant(TenantId),
    /// The one with this id (`jti`), whosever it is.
    Token(Arc<str>),
    /// The one with this id of this tenant, unless it is a super admin's.
    TokenOf(TenantId, Arc<str>),
}

impl Revoked {
    /// What could have been revoked to end this authority, of which anything does.
    pub(crate) fn that_cover(identity: &Identity) -> impl Iterator<Item = Self> + use<> {
        let user = Arc::clone(&identity.user);
        // A super admin is no tenant's, whatever its access token says.
        let tenant = identity.tenant.filter(|_| !identity.super_admin);
        let token = identity.token_id.clone();
        let token_of = tenant.zip(token.clone());
        let of_tenant = tenant.map(|tenant| {
            [
                Self::Tenant(tenant),
                Self::UserOf(tenant, Arc::clone(&user)),
            ]
        });
        std::iter::once(Self::User(user))
            .chain(of_tenant.into_iter().flatten())
            .chain(token.map(Self::Token))
            .chain(token_of.map(|(tenant, token)| Self::TokenOf(tenant, token)))
    }

    /// Whether what is revoked at `at`, in microseconds since the Unix epoch, ends the authority of an identity that
    /// it covers. A token that is meant by its id is over whenever it was issued; of others those that were issued
    /// later are good.
    pub(crate) fn ends(&self, identity: &Identity, at: i64) -> bool {
        match self {
            Self::Token(_) | Self::TokenOf(..) => true,
            Self::User(_) | Self::UserOf(..) | Self::Tenant(_) => was_issued_by(identity, at),
        }
    }

    /// The tenant whose users and tokens it is one of; `None` for a whole tenant, and for what super admins alone revoke.
    #[must_use]
    pub fn counted_for(&self) -> Option<TenantId> {
        match self {
            Self::UserOf(tenant, _) | Self::TokenOf(tenant, _) => Some(*tenant),
            Self::User(_) | Self::Tenant(_) | Self::Token(_) => None,
        }
    }

    /// A text that names it in 1 to 400 characters of `A-Za-z0-9._-`: a key of a NATS bucket.
    #[must_use]
    pub fn key(&self) -> String {
        let mut key = String::new();
        // Into a text nothing fails to be written.
        let _ = match self {
            Self::User(user) => write!(key, "user.{}", URL_SAFE_NO_PAD.encode(&**user)),
            Self::UserOf(tenant, user) => {
                write!(
                    key,
                    "tenant.{tenant}.user.{}",
                    URL_SAFE_NO_PAD.encode(&**user)
                )
            }
            Self::Tenant(tenant) => write!(key, "tenant.{tenant}"),
            Self::Token(token) => write!(key, "token.{}", URL_SAFE_NO_PAD.encode(&**token)),
            Self::TokenOf(tenant, token) => {
                write!(
                    key,
                    "tenant.{tenant}.token.{}",
                    URL_SAFE_NO_PAD.encode(&**token)
                )
            }
        };
        key
    }
}

/// The text names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this names nobody whose access tokens could be revoked")]
pub struct InvalidRevoked;

impl FromStr for Revoked {
    type Err = InvalidRevoked;

    fn from_str(key: &str) -> Result<Self, InvalidRevoked> {
        let text = |encoded: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(encoded).ok();
            let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
            text.filter(|text| is_bounded_text(text))
                .map(Arc::from)
                .ok_or(InvalidRevoked)
        };
        let tenant = |text: &str| text.parse().map_err(|_| InvalidRevoked);
        match *key.split('.').collect::<Vec<_>>() {
            ["user", encoded] => Ok(Self::User(text(encoded)?)),
            ["token", encoded] => Ok(Self::Token(text(encoded)?)),
            ["tenant", id] => Ok(Self::Tenant(tenant(id)?)),
            ["tenant", id, "user", encoded] => Ok(Self::UserOf(tenant(id)?, text(encoded)?)),
            ["tenant", id, "token", encoded] => Ok(Self::TokenOf(tenant(id)?, text(encoded)?)),
            _ => Err(InvalidRevoked),
        }
    }
}

/// That the access tokens of somebody which were issued up to a time are good no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Whose.
    pub whose: Revoked,
    /// When, in microseconds since the Unix epoch.
    pub at: i64,
}

impl Revocation {
    /// Whether it ends the authority of `identity`.
    #[must_use]
    pub fn covers(&self, identity: &Identity) -> bool {
        self.whose.ends(identity, self.at)
            && Revoked::that_cover(identity).any(|covering| covering == self.whose)
    }
}

/// Whether an access token was issued up to a time, in microseconds since the Unix epoch.
///
/// `iat` has whole seconds, so one that was issued in the second of a revocation may have been issued before
/// it, and counts as such; so does one that does not say when it was issued.
fn was_issued_by(identity: &Identity, at: i64) -> bool {
    let at = at.div_euclid(1_000_000);
    identity.issued_at.is_none_or(|issued| issued <= at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(number: u8) -> TenantId {
        TenantId::from_bytes([number; 16])
    }

    fn identity(user: &str, tenant: Option<TenantId>, issued_at: Option<i64>) -> Identity {
        Identity {
            user: user.into(),
            tenant,
            role: "viewer".into(),
            super_admin: tenant.is_none(),
            expires_at: 1_000,
            issued_at,
            token_id: None,
            devices: None,
            types: None,
            device_group: None,
        }
    }

    #[test]
    fn what_is_revoked_round_trips_by_its_key() {
        let longest: Arc<str> = "\u{1d11e}.*> ".repeat(32).into();
        assert_eq!(longest.len(), 256);
        for whose in [
            Revoked::User("ada".into()),
            Revoked::User(Arc::clone(&longest)),
            Revoked::UserOf(tenant(1), Arc::clone(&longest)),
            Revoked::Tenant(tenant(2)),
            Revoked::Token("1".into()),
            Revoked::Token(Arc::clone(&longest)),
            Revoked::TokenOf(tenant(3), longest),
        ] {
            let key = whose.key();
            assert!(key.len() <= 400, "{key}");
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            assert!(key.bytes().all(plain), "{key}");
            assert_eq!(key.parse(), Ok(whose));
        }
        for key in [
            "", "user", "user.", "user.a.b", "tenant.x", "tenant.", "format", "token", "token.",
        ] {
            assert_eq!(key.parse::<Revoked>(), Err(InvalidRevoked), "{key}");
        }
    }

    #[test]
    fn a_revocation_covers_whom_it_names_and_nobody_else() {
        let ada = |of| identity("ada", of, Some(5));
        let cases = [
            (Revoked::User("ada".into()), ada(Some(tenant(1))), true),
            (Revoked::User("ada".into()), ada(None), true),
            (Revoked::User("bob".into()), ada(Some(tenant(1))), false),
            (
                Revoked::UserOf(tenant(1), "ada".into()),
                ada(Some(tenant(1))),
                true,
            ),
            (
                Revoked::UserOf(tenant(2), "ada".into()),
                ada(Some(tenant(1))),
                false,
            ),
            (
                Revoked::UserOf(tenant(1), "bob".into()),
                ada(Some(tenant(1))),
                false,
            ),
            (Revoked::Tenant(tenant(1)), ada(Some(tenant(1))), true),
            (Revoked::Tenant(tenant(2)), ada(Some(tenant(1))), false),
        ];
        for (whose, identity, expected) in cases {
            let revocation = Revocation {
                whose,
                at: 9_000_000,
            };
            assert_eq!(
                revocation.covers(&identity),
                expected,
                "{revocation:?} {identity:?}"
            );
        }
    }

    #[test]
    fn a_tenants_revocation_leaves_a_super_admin_with_that_tenant_alone() {
        let mut root = identity("root", Some(tenant(1)), Some(5));
        root.super_admin = true;
        for whose in [
            Revoked::Tenant(tenant(1)),
            Revoked::UserOf(tenant(1), "root".into()),
        ] {
            assert!(
                !Revocation {
                    whose,
                    at: 9_000_000
                }
                .covers(&root)
            );
        }
    }

    #[test]
    fn a_token_that_is_meant_by_its_id_is_over_whenever_it_was_issued() {
        let mut ada = identity("ada", Some(tenant(1)), Some(100));
        ada.token_id = Some("t-1".into());
        let mut root = identity("root", Some(tenant(1)), Some(100));
        (root.super_admin, root.token_id) = (true, Some("t-1".into()));
        let unnamed = identity("ada", Some(tenant(1)), Some(100));
        let cases = [
            (Revoked::Token("t-1".into()), [true, true, false]),
            (Revoked::Token("t-2".into()), [false, false, false]),
            (
                Revoked::TokenOf(tenant(1), "t-1".into()),
                [true, false, false],
            ),
            (
                Revoked::TokenOf(tenant(2), "t-1".into()),
                [false, false, false],
            ),
            (Revoked::User("t-1".into()), [false, false, false]),
        ];
        for (whose, expected) in cases {
            let revocation = Revocation { whose, at: 0 };
            let covered = [&ada, &root, &unnamed].map(|identity| revocation.covers(identity));
            assert_eq!(covered, expected, "{revocation:?}");
        }
    }

    #[test]
    fn tokens_issued_in_the_second_of_the_revocation_or_at_no_known_time_are_covered() {
        let revocation = Revocation {
            whose: Revoked::User("ada".into()),
            at: 10_500_000,
        };
        for (issued_at, expected) in [
            (Some(9), true),
            (Some(10), true),
            (Some(11), false),
            (None, true),
        ] {
            let identity = identity("ada", Some(tenant(1)), issued_at);
            assert_eq!(revocation.covers(&identity), expected, "{issued_at:?}");
        }
    }
}
