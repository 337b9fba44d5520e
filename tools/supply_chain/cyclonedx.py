"""What a CycloneDX 1.6 document has to have (ECMA-424), as far as ours uses it."""

import re

SERIAL = re.compile(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
PURL = re.compile(r"pkg:[a-z]+/[^@?]+@[^?]+(\?.*)?")
SHA256 = re.compile(r"[0-9a-f]{64}")
TYPES = {"application", "library"}


def problems(bom):
    """One line for each thing that is missing or wrong."""
    found = []

    def need(good, text):
        if not good:
            found.append(text)

    need(bom.get("bomFormat") == "CycloneDX", "bomFormat is not CycloneDX")
    need(bom.get("specVersion") == "1.6", "specVersion is not 1.6")
    need(SERIAL.fullmatch(bom.get("serialNumber", "")), "serialNumber is no UUID")
    need(bom.get("version", 0) >= 1, "version is not 1 or more")
    meta = bom.get("metadata", {})
    need(TIME.fullmatch(meta.get("timestamp", "")), "metadata.timestamp is no time")
    need("component" in meta, "metadata.component is missing")
    components = [meta.get("component", {}), *bom.get("components", [])]
    need(len(components) > 1, "there are no components")
    refs = set()
    for component in components:
        name = component.get("name")
        need(name, "a component has no name")
        need(component.get("type") in TYPES, f"{name}: type")
        need(component.get("version"), f"{name}: version")
        need(PURL.fullmatch(component.get("purl", "")), f"{name}: purl")
        need(component.get("licenses"), f"{name}: licenses")
        for licence in component.get("licenses", []):
            need("expression" in licence or "license" in licence, f"{name}: licence")
        for digest in component.get("hashes", []):
            need(digest["alg"] == "SHA-256" and SHA256.fullmatch(digest["content"]), f"{name}: hash")
        need("scope" not in component or component.get("hashes"), f"{name}: no hash")
        ref = component.get("bom-ref")
        need(ref and ref not in refs, f"{name}: bom-ref {ref}")
        refs.add(ref)
    described = [d.get("ref") for d in bom.get("dependencies", [])]
    need(sorted(described) == sorted(refs), "dependencies do not name each component once")
    for dependency in bom.get("dependencies", []):
        for ref in dependency.get("dependsOn", []):
            need(ref in refs, f"{dependency['ref']} depends on {ref}, which is not there")
    return found
