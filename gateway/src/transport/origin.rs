//! Which web pages may open a connection; pure.
//!
//! A browser lets any page open a WebSocket to any host and sends the page's origin along: the node decides. Programs
//! that are no browsers send no `Origin` and are not meant here.

use std::net::IpAddr;

use http::{HeaderName, Request, header};

use super::Arrival;
use crate::config::{Origin, Settings};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whose pages are let in.
#[derive(Debug, Clone, Copy)]
pub struct OriginRules<'a> {
    /// `public.origins`.
    pub allowed: &'a [Origin],
    /// Development mode: pages of this machine may, pages of others must not, whatever the names resolve to.
    pub development: bool,
}

/// Why a page is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForeignPage {
    /// The origin is not among those allowed.
    #[error("pages of this origin may not connect: add it to public.origins")]
    Origin,
    /// In development mode: the name of the host is not one of this machine's.
    #[error("in development mode this node answers to localhost and IP addresses only, not to other host names")]
    Host,
    /// In development mode: the browser says that another site asks.
    #[error("in development mode pages of other sites may not connect")]
    CrossSite,
}

impl<'a> OriginRules<'a> {
    /// Those of these settings.
    pub fn of(settings: &'a Settings) -> Self {
        Self { allowed: &settings.public.origins, development: settings.development() }
    }

    /// Decides about a handshake.
    ///
    /// # Errors
    /// [`ForeignPage`] says which rule is broken.
    pub fn check<B>(&self, request: &Request<B>, arrival: &Arrival) -> Result<(), ForeignPage> {
        let text = |name: &HeaderName| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
        let origin = text(&header::ORIGIN);
        if origin.is_some_and(|origin| self.allowed.iter().any(|allowed| allowed.matches(origin))) {
            return Ok(());
        }
        // HTTP/2 has `:authority`, and a whole URI in the request line comes before `Host` (RFC 9112 §3.2.2).
        let authority = request.uri().authority().map(http::uri::Authority::as_str);
        let host = authority.or_else(|| text(&header::HOST)).unwrap_or_default();
        let same_host = origin.is_some_and(|origin| is_of_host(origin, host, arrival.encrypted));
        if self.development {
            let loopback = arrival.local.ip().is_loopback();
            return check_development(origin, host, same_host, text(&SEC_FETCH_SITE), loopback);
        }
        match origin {
            None => Ok(()),
            Some(_) if self.allowed.is_empty() && same_host => Ok(()),
            Some(_) => Err(ForeignPage::Origin),
        }
    }
}

impl OriginRules<'_> {
    /// Whether a cookie counts for this request, which has been let in: where the page is a named one or the host's own, or
    /// there is none. `*` names nobody, and a page of anybody's must not act for whoever visits it.
    pub fn may_use_cookies<B>(&self, request: &Request<B>, arrival: &Arrival) -> bool {
        let named: Vec<_> = self.allowed.iter().filter(|allowed| **allowed != Origin::Any).cloned().collect();
        let rules = OriginRules { allowed: &named, ..*self };
        let site = request.headers().get(SEC_FETCH_SITE).map(|value| value.to_str().unwrap_or_default());
        let is_asked_by_a_page = request.headers().contains_key(header::ORIGIN);
        rules.check(request, arrival).is_ok()
            && (is_asked_by_a_page || !matches!(site, Some("cross-site" | "same-site")))
    }
}

fn check_development(
    origin: Option<&str>,
    host: &str,
    same_host: bool,
    site: Option<&str>,
    loopback: bool,
) -> Result<(), ForeignPage> {
    // A name that an attacker's DNS points at this machine is in `Host`, and in `Origin` too.
    if loopback && !is_local_name(host) {
        return Err(ForeignPage::Host);
    }
    match origin {
        None if site == Some("cross-site") => Err(ForeignPage::CrossSite),
        None => Ok(()),
        Some(origin) => match authority(origin) {
            Some(page) if is_loopback_name(page) => Ok(()),
            Some(_) if same_host && ip(host).is_some() => Ok(()),
            _ => Err(ForeignPage::Origin),
        },
    }
}

/// Whether a page with this origin came from this host. Where the listener itself speaks TLS a page without it did not,
/// whatever its name: anybody on the way may have written it.
fn is_of_host(origin: &str, host: &str, encrypted: bool) -> bool {
    let Some(page) = authority(origin) else { return false };
    let secure = origin.starts_with("https://");
    // Browsers leave the usual port out of `Origin`; others may name it in `Host`.
    let usual = if secure { ":443" } else { ":80" };
    (secure || !encrypted) && (page == host || host.strip_suffix(usual) == Some(page))
}

/// `host[:port]` of an origin; `None` for `null` and what is no origin.
pub fn authority(origin: &str) -> Option<&str> {
    let (scheme, rest) = origin.split_once("://")?;
    (matches!(scheme, "http" | "https") && !rest.is_empty() && !rest.contains('/')).then_some(rest)
}

/// The host without its port.
fn name(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(host, |(name, _)| name),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    }
}

fn ip(host: &str) -> Option<IpAddr> {
    name(host).parse().ok()
}

/// localhost or a loopback address, with or without a port.
pub fn is_loopback_name(host: &str) -> bool {
    name(host).eq_ignore_ascii_case("localhost") || ip(host).is_some_and(|ip| ip.is_loopback())
}

/// localhost or any address: a name that no foreign DNS can give to a page.
fn is_local_name(host: &str) -> bool {
    is_loopback_name(host) || ip(host).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rules: &OriginRules<'_>, origin: Option<&str>, host: &str, site: Option<&str>, loopback: bool) -> bool {
        let mut request = Request::get("/ws").header(header::HOST, host);
        for (name, value) in [(header::ORIGIN, origin), (SEC_FETCH_SITE, site)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        rules.check(&request.body(()).unwrap(), &arrival(loopback, false)).is_ok()
    }

    fn arrival(loopback: bool, encrypted: bool) -> Arrival {
        let local = if loopback { "127.0.0.1:8000" } else { "192.0.2.1:8000" };
        Arrival::new(local.parse().unwrap(), "127.0.0.1:5000".parse().unwrap(), encrypted)
    }

    #[test]
    fn the_host_is_that_of_the_request_and_the_scheme_that_of_the_listener() {
        let rules = OriginRules { allowed: &[], development: false };
        let may = |uri: &str, origin: &str, encrypted| {
            let request = Request::get(uri).header(header::ORIGIN, origin).header(header::HOST, "proxy.internal");
            rules.check(&request.body(()).unwrap(), &arrival(false, encrypted)).is_ok()
        };
        assert!(may("https://rt.example.com/ws", "https://rt.example.com", true));
        assert!(may("https://rt.example.com:443/ws", "https://rt.example.com", true));
        assert!(!may("https://rt.example.com:8443/ws", "https://rt.example.com", true));
        assert!(!may("https://rt.example.com/ws", "https://proxy.internal", true));
        assert!(
            !may("https://rt.example.com/ws", "http://rt.example.com", true),
            "a page that anybody may have changed"
        );
        assert!(may("http://rt.example.com/ws", "https://rt.example.com", false), "TLS ends in front of the node");
    }

    #[test]
    fn by_default_a_page_of_the_same_host_may() {
        let rules = OriginRules { allowed: &[], development: false };
        assert!(check(&rules, None, "rt.example.com", None, false));
        assert!(check(&rules, Some("https://rt.example.com"), "rt.example.com", None, false));
        assert!(!check(&rules, Some("https://rt.example.com:8443"), "rt.example.com", None, false));
        assert!(!check(&rules, Some("https://evil.example"), "rt.example.com", None, false));
        assert!(!check(&rules, Some("null"), "rt.example.com", None, false));
    }

    #[test]
    fn named_origins_may_and_no_others() {
        let allowed = [Origin::parse("https://app.example.com").unwrap()];
        let rules = OriginRules { allowed: &allowed, development: false };
        let may = |origin| check(&rules, Some(origin), "rt.example.com", None, false);
        assert!(may("https://app.example.com"));
        assert!(!may("https://rt.example.com"), "a list leaves nobody in by default");
        assert!(!may("null"));
        assert!(check(&rules, None, "rt.example.com", None, false), "no browser");
    }

    #[test]
    fn in_development_only_pages_of_this_machine_may() {
        let rules = OriginRules { allowed: &[], development: true };
        let may = |origin, host| check(&rules, origin, host, None, true);
        assert!(may(None, "localhost:8000"));
        assert!(may(Some("http://localhost:5173"), "127.0.0.1:8000"));
        assert!(may(Some("http://[::1]:5173"), "[::1]:8000"));
        assert!(may(Some("http://192.168.1.5:8000"), "192.168.1.5:8000"));
        assert!(!may(Some("http://192.168.1.6:8000"), "192.168.1.5:8000"));
        assert!(!may(Some("http://evil.example"), "localhost:8000"));
        assert!(!may(Some("http://localhost.evil.example"), "localhost:8000"));
        assert!(!may(Some("null"), "localhost:8000"));
        assert!(!may(Some("http://evil.example:8000"), "evil.example:8000"), "DNS rebinding");
        assert!(!may(None, "evil.example:8000"), "DNS rebinding without Origin");
        assert!(!check(&rules, None, "localhost:8000", Some("cross-site"), true));
    }
}
