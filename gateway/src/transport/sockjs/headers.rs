//! Who may see an answer, and how long it is kept; pure.
//!
//! What the protocol's own tests want is that everybody may. Here only pages of `public.origins` may; whoever may is told so by
//! name and with credentials, without which a browser's client cannot go on.

use http::{HeaderMap, HeaderName, HeaderValue, Request, header};

use crate::transport::{
    Arrival,
    origin::{self, ForeignPage, OriginRules},
};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const NOT_KEPT: HeaderValue = HeaderValue::from_static("no-store, no-cache, no-transform, must-revalidate, max-age=0");
const KEPT: HeaderValue = HeaderValue::from_static("public, max-age=31536000");
/// A date that a cache cannot but take for far away.
const FAR_AWAY: HeaderValue = HeaderValue::from_static("Thu, 31 Dec 2037 23:55:55 GMT");
/// How long a browser may go by the answer to a preflight, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("31536000");

/// The answer is made for this request and no other.
pub(super) fn not_kept(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, NOT_KEPT);
}

/// The answer stays as it is.
pub(super) fn kept(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, KEPT);
    headers.insert(header::EXPIRES, FAR_AWAY);
}

/// Whom an answer is for.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    origin: Option<HeaderValue>,
    wanted_headers: Option<HeaderValue>,
    may_use_cookies: bool,
}

impl Visitor {
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
        Ok(Self::of(rules, request, arrival))
    }

    /// The same for what a page may load as a script or a frame: no `Origin` comes with that, so a page of another site has to
    /// be named in `Referer`.
    ///
    /// # Errors
    /// As [`Visitor::check`].
    pub(super) fn check_embedded<B>(
        rules: OriginRules<'_>,
        request: &Request<B>,
        arrival: &Arrival,
    ) -> Result<Self, ForeignPage> {
        let headers = request.headers();
        let is_foreign = headers.get(SEC_FETCH_SITE).is_some_and(|site| site == "cross-site" || site == "same-site");
        if !is_foreign || headers.contains_key(header::ORIGIN) {
            return Self::check(rules, request, arrival);
        }
        let page = headers.get(header::REFERER).and_then(|page| page.to_str().ok()).and_then(origin_of);
        let mut named = Request::new(());
        request.uri().clone_into(named.uri_mut());
        if let Some(host) = headers.get(header::HOST) {
            named.headers_mut().insert(header::HOST, host.clone());
        }
        let page = page.and_then(|page| HeaderValue::from_str(page).ok());
        named.headers_mut().insert(header::ORIGIN, page.unwrap_or(HeaderValue::from_static("null")));
        rules.check(&named, arrival)?;
        Ok(Self::of(rules, request, arrival))
    }

    fn of<B>(rules: OriginRules<'_>, request: &Request<B>, arrival: &Arrival) -> Self {
        let headers = request.headers();
        let wanted_headers = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).filter(|wanted| !wanted.is_empty());
        Self {
            origin: headers.get(header::ORIGIN).cloned(),
            wanted_headers: wanted_headers.cloned(),
            may_use_cookies: rules.may_use_cookies(request, arrival),
        }
    }

    /// Whether a token in a cookie counts.
    pub(super) fn may_use_cookies(&self) -> bool {
        self.may_use_cookies
    }

    /// Lets the page see the answer.
    pub(super) fn let_see(&self, headers: &mut HeaderMap) {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        match &self.origin {
            Some(origin) => {
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
            None => {
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            }
        }
        if let Some(wanted) = &self.wanted_headers {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
    }

    /// Answers a preflight: `methods` are what may be asked here.
    pub(super) fn preflight(&self, methods: &'static str, headers: &mut HeaderMap) {
        self.let_see(headers);
        kept(headers);
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    }
}

/// `https://a.example` of `https://a.example/b?c`.
fn origin_of(page: &str) -> Option<&str> {
    let begin = page.find("://")? + 3;
    let end = page[begin..].find(['/', '?', '#']).map_or(page.len(), |at| begin + at);
    let found = &page[..end];
    origin::authority(found).map(|_| found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;

    fn request(lines: &[(&'static str, &str)]) -> Request<()> {
        let mut request = Request::get("/sockjs/0/a/jsonp?c=a").header(header::HOST, "rt.example.com");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn arrival() -> Arrival {
        Arrival::new("192.0.2.1:8000".parse().unwrap(), "192.0.2.9:5000".parse().unwrap(), false)
    }

    fn seen(allowed: &[Origin], lines: &[(&'static str, &str)]) -> Result<HeaderMap, ForeignPage> {
        let rules = OriginRules { allowed, development: false };
        let visitor = Visitor::check(rules, &request(lines), &arrival())?;
        let mut headers = HeaderMap::new();
        visitor.let_see(&mut headers);
        Ok(headers)
    }

    #[test]
    fn only_pages_that_may_connect_see_an_answer() {
        let allowed = [Origin::parse("https://app.example.com").unwrap()];
        let headers = seen(&allowed, &[("origin", "https://app.example.com")]).unwrap();
        assert_eq!(headers["access-control-allow-origin"], "https://app.example.com");
        assert_eq!(headers["access-control-allow-credentials"], "true");
        assert!(!headers.contains_key("access-control-allow-headers"));
        for page in ["https://evil.example", "null"] {
            assert!(seen(&allowed, &[("origin", page)]).is_err(), "{page}");
        }
        let headers = seen(&allowed, &[("access-control-request-headers", "a, b")]).unwrap();
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert!(!headers.contains_key("access-control-allow-credentials"));
        assert_eq!(headers["access-control-allow-headers"], "a, b");
        let headers = seen(&[Origin::Any], &[("origin", "null"), ("access-control-request-headers", "")]).unwrap();
        assert_eq!(headers["access-control-allow-origin"], "null");
        assert!(!headers.contains_key("access-control-allow-headers"));
    }

    #[test]
    fn what_a_page_of_another_site_embeds_names_that_page() {
        let allowed = [Origin::parse("https://app.example.com").unwrap()];
        let may = |allowed: &[Origin], lines: &[(&'static str, &str)]| {
            Visitor::check_embedded(OriginRules { allowed, development: false }, &request(lines), &arrival()).is_ok()
        };
        let cross = ("sec-fetch-site", "cross-site");
        assert!(may(&allowed, &[]), "no browser");
        assert!(may(&allowed, &[("sec-fetch-site", "same-origin")]));
        assert!(may(&allowed, &[cross, ("referer", "https://app.example.com/page?x=1")]));
        for bad in [
            "https://evil.example/",
            "https://app.example.com.evil.example/",
            "https://app.example.com@evil.example/",
            "no",
        ] {
            assert!(!may(&allowed, &[cross, ("referer", bad)]), "{bad}");
        }
        assert!(!may(&allowed, &[cross]));
        assert!(!may(&allowed, &[("sec-fetch-site", "same-site")]));
        assert!(!may(&[], &[cross, ("referer", "https://evil.example/")]));
        assert!(may(&[Origin::Any], &[cross]));
    }
}
