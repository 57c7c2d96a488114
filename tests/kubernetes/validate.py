"""Checks Kubernetes objects against the schemas of several versions of Kubernetes, every unknown field being an error, and
prints them as a list in JSON.

usage: kubectl kustomize FOLDER | validate.py [VERSION...]     exit code 1: something is wrong, said on stderr
"""

import json
import sys

import kubernetes_validate
import yaml

# Not Kubernetes' own: their schemas are not there.
FOREIGN = {("monitoring.coreos.com/v1", "ServiceMonitor")}

objects = [it for it in yaml.safe_load_all(sys.stdin) if it]
wrong = 0
for it in objects:
    if (it["apiVersion"], it["kind"]) in FOREIGN:
        continue
    for version in sys.argv[1:]:
        try:
            kubernetes_validate.validate(it, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            print(f"{it['kind']} {it['metadata']['name']}, Kubernetes {version}: {error}", file=sys.stderr)
            wrong = 1
json.dump(objects, sys.stdout)
sys.exit(wrong)
