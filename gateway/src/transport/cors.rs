//! What a page of another origin may see of an answer (the Fetch standard's CORS protocol); pure.
//!
//! Whoever is let in at all ([`OriginRules`]) is told so, by name and with credentials; where `public.origins` is `*` nobody
//! is named, and no cookie counts. The answer to a page that is not let in says nothing.

use http::{HeaderMap, HeaderValue, Request, StatusCode, header};

use super::{
    Arrival,
    http::{Answer, text},
    origin::{ForeignPage, OriginRules},
};
use crate::metrics;

/// How long a browser may go by the answer to a preflight, in seconds. Browsers shorten it to two hours or less.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");
/// What a page may send along.
const ALLOWED_HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, cache-control, content-type, last-event-id");

/// Whom an answer is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cors {
    /// The page's origin, if a page asks.
    origin: Option<HeaderValue>,
    /// Whether its cookies count.
    with_credentials: bool,
}

impl Cors {
    /// Looks at who asks.
    ///
    /// # Errors
    /// [`ForeignPage`] says why such a page may not.
    pub(super) fn check<B>(
        rules: OriginRules<'_>,
        request: &Request<B>,
        arrival: &Arrival,
    ) -> Result<Self, ForeignPage> {
        rules.check(request, arrival)?;
        let with_credentials = rules.may_use_cookies(request, arrival);
        Ok(Self { origin: request.headers().get(header::ORIGIN).cloned(), with_credentials })
    }

    /// Whether a cookie counts.
    pub(super) fn may_use_cookies(&self) -> bool {
        self.with_credentials
    }

    /// The answer as the page may see it.
    pub(super) fn on(&self, mut answer: Answer) -> Answer {
        self.add(answer.headers_mut());
        answer
    }

    fn add(&self, headers: &mut HeaderMap) {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        let Some(origin) = &self.origin else { return };
        if self.with_credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        } else {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
    }

    /// The answer to a preflight: `methods` are what may be asked here.
    pub(super) fn preflight(&self, methods: &'static str) -> Answer {
        let mut answer = text(StatusCode::NO_CONTENT, "");
        let headers = answer.headers_mut();
        headers.remove(header::CONTENT_TYPE);
        headers.remove(header::CONTENT_LENGTH);
        self.add(headers);
        headers.insert(header::ALLOW, HeaderValue::from_static(methods));
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        answer
    }
}

/// The answer to a page that is not let in.
pub(super) fn foreign(page: ForeignPage) -> Answer {
    metrics::refused("origin");
    text(StatusCode::FORBIDDEN, format!("{page}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;

    fn asked(allowed: &[Origin], origin: Option<&str>) -> Result<HeaderMap, ForeignPage> {
        let arrival = Arrival::new("192.0.2.1:8000".parse().unwrap(), "192.0.2.9:5000".parse().unwrap(), false);
        let mut request = Request::get("/sse?channel=a").header(header::HOST, "rt.example.com");
        if let Some(origin) = origin {
            request = request.header(header::ORIGIN, origin);
        }
        let rules = OriginRules { allowed, development: false };
        let cors = Cors::check(rules, &request.body(()).unwrap(), &arrival)?;
        Ok(cors.on(text(StatusCode::OK, "")).into_parts().0.headers)
    }

    #[test]
    fn a_named_page_is_told_so_with_credentials_and_no_other() {
        let allowed = [Origin::parse("https://app.example.com").unwrap()];
        let headers = asked(&allowed, Some("https://app.example.com")).unwrap();
        assert_eq!(headers["access-control-allow-origin"], "https://app.example.com");
        assert_eq!(
            (&headers["access-control-allow-credentials"], &headers["vary"]),
            (&"true".parse().unwrap(), &"origin".parse().unwrap())
        );
        assert!(asked(&allowed, Some("https://evil.example")).is_err());
        assert!(asked(&allowed, Some("null")).is_err());
        let nobody = asked(&allowed, None).unwrap();
        assert!(!nobody.contains_key("access-control-allow-origin") && nobody["vary"] == "origin");
    }

    #[test]
    fn where_everybody_may_nobody_is_named_and_no_cookie_counts() {
        let headers = asked(&[Origin::Any], Some("https://evil.example")).unwrap();
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert!(!headers.contains_key("access-control-allow-credentials"));
    }
}
