//! Who gets in, and what every answer says to the browser about itself.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::token::{Token, from_hex, unescaped};
use crate::pages::is_of_this_machine;

/// Asks for the token; shown to browsers that have none.
const SIGN_IN: &str = include_str!("../../web/token.html");

/// On every answer.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; \
         object-src 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
];

/// What the page that asks for the token needs; there is no secret in it.
const FOR_ALL: [&str; 2] = ["/style.css", "/icon.svg"];

/// Decides who gets in.
pub(super) struct Gate {
    token: Option<Token>,
    /// Of this node and port alone: browsers send cookies to all ports of a host, and by
    /// forwarded ports other nodes are there as well.
    cookie: String,
}

impl Gate {
    pub(super) fn new(token: Option<Token>, node: &str, port: u16) -> Self {
        let mut hasher = DefaultHasher::new();
        (node, port).hash(&mut hasher);
        Self {
            token,
            cookie: format!("circuit-web-{:016x}", hasher.finish()),
        }
    }

    /// A cookie to set, when somebody gets in by an address with the token in it.
    fn admit(&self, uri: &Uri, headers: &HeaderMap) -> Result<Option<HeaderValue>, Box<Response>> {
        let Some(token) = &self.token else {
            // Another site's name that leads to this address would let its pages
            // read here; with a token they lack the cookie.
            return match is_of_this_machine(headers) {
                true => Ok(None),
                false => Err(refuse(
                    StatusCode::FORBIDDEN,
                    "open this page as localhost or by a loopback address\n",
                )),
            };
        };
        if FOR_ALL.contains(&uri.path()) {
            return Ok(None);
        }
        let bearer = headers.get(header::AUTHORIZATION).and_then(bearer);
        if bearer.is_some_and(|given| token.is(given.as_bytes())) {
            return Ok(None);
        }
        if self.cookies(headers).any(|given| token.is(&given)) {
            return Ok(None);
        }
        if queried(uri).is_some_and(|given| token.is(&given)) {
            let cookie = format!(
                "{}={}; Path=/; HttpOnly; SameSite=Strict",
                self.cookie,
                token.in_hex()
            );
            return Ok(HeaderValue::from_str(&cookie).ok());
        }
        if uri.path() == "/" {
            let page = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
            return Err(Box::new(
                (StatusCode::UNAUTHORIZED, page, SIGN_IN).into_response(),
            ));
        }
        Err(refuse(
            StatusCode::UNAUTHORIZED,
            "give the token of --web-token-file\n",
        ))
    }

    fn cookies(&self, headers: &HeaderMap) -> impl Iterator<Item = Vec<u8>> {
        let all = headers.get_all(header::COOKIE).into_iter();
        all.filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(name, _)| *name == self.cookie)
            .filter_map(|(_, value)| from_hex(value))
    }
}

/// Lets a request through, or does not.
pub(super) async fn guard(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let mut response = match judge(&gate, &request) {
        Ok(cookie) => {
            let mut response = next.run(request).await;
            if let Some(cookie) = cookie {
                response.headers_mut().insert(header::SET_COOKIE, cookie);
            }
            response
        }
        Err(refusal) => *refusal,
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // What is not said to be the same for everybody is nobody else's.
    let cache = headers.entry(header::CACHE_CONTROL);
    cache.or_insert(HeaderValue::from_static("no-store"));
    response
}

fn judge(gate: &Gate, request: &Request) -> Result<Option<HeaderValue>, Box<Response>> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let allow = [(header::ALLOW, "GET, HEAD")];
        let why = "this page only shows: use GET\n";
        return Err(Box::new(
            (StatusCode::METHOD_NOT_ALLOWED, allow, why).into_response(),
        ));
    }
    let headers = request.headers();
    // Pages of others cannot read the answers, but they need not ask at all.
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    let foreign = matches!(site, Some(b"cross-site" | b"same-site"));
    if foreign && request.uri().path() != "/" {
        return Err(refuse(
            StatusCode::FORBIDDEN,
            "only the page itself may ask for this\n",
        ));
    }
    gate.admit(request.uri(), headers)
}

fn refuse(status: StatusCode, why: &'static str) -> Box<Response> {
    Box::new((status, why).into_response())
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn queried(uri: &Uri) -> Option<Vec<u8>> {
    let mut pairs = uri.query()?.split('&');
    pairs.find_map(|pair| pair.strip_prefix("token=").map(unescaped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_a_cookie_of_its_own() {
        let cookie = |node, port| Gate::new(None, node, port).cookie;
        assert_eq!(cookie("n1", 8081), cookie("n1", 8081));
        assert_ne!(cookie("n1", 8081), cookie("n2", 8081));
        assert_ne!(cookie("n1", 8081), cookie("n1", 8082));
    }
}
