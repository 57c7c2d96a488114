"""An issuer of identities, as GitHub, GitLab and Kubernetes are: PyJWT and cryptography sign, nothing of Snowcache's.

    issuer.py [CA_FILE]    with CA_FILE over TLS, by an authority that is written there, and only for "Bearer kube"

It says {"url": ...}, then answers each line of JSON on stdin with one:
    {"claims": {...}, "key": "rsa-1", "alg": "RS256", "headers": {...}}  ->  {"jwt": ...}    any of them may be left out
    {"forge": "none" | "hmac" | "swap", "claims": {...}}                 ->  {"jwt": ...}
    {"show": ["rsa-1", ...]}        which keys it shows from now on      ->  {"asked": how often they were asked for}
    {"discovery": {...}}            what its discovery document says differently
    {"dead": true}                  answers 503 from now on
GET /github?audience=A with "bearer job" is GitHub's way to give a job its identity.
"""

import base64, datetime, hashlib, hmac, http.server, ipaddress, json, ssl, sys, threading, time, urllib.parse

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

keys = {
    "rsa-1": (rsa.generate_private_key(65537, 2048), "RS256", jwt.algorithms.RSAAlgorithm),
    "rsa-2": (rsa.generate_private_key(65537, 2048), "PS512", jwt.algorithms.RSAAlgorithm),
    "rsa-weak": (rsa.generate_private_key(65537, 1024), "RS256", jwt.algorithms.RSAAlgorithm),
    "p256": (ec.generate_private_key(ec.SECP256R1()), "ES256", jwt.algorithms.ECAlgorithm),
    "p384": (ec.generate_private_key(ec.SECP384R1()), "ES384", jwt.algorithms.ECAlgorithm),
    "ed": (ed25519.Ed25519PrivateKey.generate(), "EdDSA", jwt.algorithms.OKPAlgorithm),
}
state = {"shown": list(keys), "asked": 0, "discovery": {}, "dead": False}


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwk(kid):
    private, alg, kind = keys[kid]
    shown = json.loads(kind.to_jwk(private.public_key()))
    return {**shown, "kid": kid, "use": "sig", **({} if kid.startswith("rsa") else {"alg": alg})}


def claims(changes):
    now = int(time.time())
    said = {"iss": url, "aud": "snowcache", "sub": "job", "iat": now, "nbf": now, "exp": now + 300, "repository_id": "42"}
    said.update(changes)
    return {name: value for name, value in said.items() if value is not None}


def sign(changes, kid, alg=None, headers={}):
    private, usual, _ = keys[kid]
    headers = {name: value for name, value in {"kid": kid, **headers}.items() if value is not None}
    return jwt.encode(claims(changes), private, alg or usual, headers)


def forge(how, changes):
    head = {"none": {"alg": "none"}, "hmac": {"alg": "HS256"}, "swap": {"alg": "ES256"}}[how]
    head = b64(json.dumps({**head, "typ": "JWT", "kid": "rsa-1"}).encode())
    text = f"{head}.{b64(json.dumps(claims(changes)).encode())}"
    public = keys["rsa-1"][0].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signature = {"none": b"", "hmac": hmac.new(pem, text.encode(), hashlib.sha256).digest(), "swap": bytes(64)}[how]
    return f"{text}.{b64(signature)}"


def certified(ca_file):
    """A certificate for 127.0.0.1, by an authority that is written to `ca_file`."""
    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    name = lambda text: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    def certificate(subject, key):
        builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name("root")).public_key(key.public_key())
        return builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)

    is_root = x509.BasicConstraints(ca=True, path_length=None)
    ca = certificate("root", root).add_extension(is_root, critical=True).sign(root, hashes.SHA256())
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    own = certificate("issuer", leaf).add_extension(here, critical=False).sign(root, hashes.SHA256())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    open(ca_file, "wb").write(ca.public_bytes(pem))
    open(ca_file + ".own", "wb").write(own.public_bytes(pem) + leaf.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca_file + ".own")
    return context


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path, _, query = self.path.partition("?")
        bearer = self.headers.get("Authorization", "")
        if path == "/github":
            good = bearer == "Bearer job"
            audience = urllib.parse.parse_qs(query).get("audience", [None])[0]
            return self.answer(200 if good else 401, {"value": sign({"aud": audience}, "rsa-1")} if good else {})
        if state["dead"] or (is_private and bearer != "Bearer kube"):
            return self.answer(503 if state["dead"] else 401, {})
        if path == "/.well-known/openid-configuration":
            return self.answer(200, {"issuer": url, "jwks_uri": url + "/keys", **state["discovery"]})
        if path == "/keys":
            state["asked"] += 1
            return self.answer(200, {"keys": [jwk(kid) for kid in state["shown"]]})
        self.answer(404, {})


is_private = len(sys.argv) > 1
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
if is_private:
    server.socket = certified(sys.argv[1]).wrap_socket(server.socket, server_side=True)
url = f"http{'s' if is_private else ''}://127.0.0.1:{server.server_address[1]}"
threading.Thread(target=server.serve_forever, daemon=True).start()
print(json.dumps({"url": url}), flush=True)
for line in sys.stdin:
    wish = json.loads(line)
    said = {}
    if "forge" in wish:
        said = {"jwt": forge(wish["forge"], wish.get("claims", {}))}
    elif "claims" in wish:
        said = {"jwt": sign(wish["claims"], wish.get("key", "rsa-1"), wish.get("alg"), wish.get("headers", {}))}
    state["shown"] = wish.get("show", state["shown"])
    state["discovery"] = wish.get("discovery", state["discovery"])
    state["dead"] = wish.get("dead", state["dead"])
    print(json.dumps({"asked": state["asked"], **said}), flush=True)
