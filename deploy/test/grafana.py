"""Stands where Grafana stands in docker-compose.yml: reads its provisioning as Grafana does, refuses what is broken, and
says what it has read on a part of Grafana's own API."""

import glob
import http.server
import json
import sys

import yaml

PROVISIONING = "/etc/grafana/provisioning"


def read():
    sources, dashboards = [], []
    for name in sorted(glob.glob(f"{PROVISIONING}/datasources/*.yml")):
        with open(name, encoding="utf-8") as file:
            sources += yaml.safe_load(file)["datasources"]
    for name in sorted(glob.glob(f"{PROVISIONING}/dashboards/*.yml")):
        with open(name, encoding="utf-8") as file:
            providers = yaml.safe_load(file)["providers"]
        for provider in providers:
            for path in sorted(glob.glob(f"{provider['options']['path']}/*.json")):
                with open(path, encoding="utf-8") as file:
                    dashboard = json.load(file)
                dashboards.append({"uid": dashboard["uid"], "title": dashboard["title"], "folderTitle": provider["folder"]})
    uids = [one["uid"] for one in sources + dashboards]
    if len(set(uids)) != len(uids):
        sys.exit(f"a uid is used twice: {uids}")
    return {"/api/health": {"database": "ok"}, "/api/datasources": sources, "/api/search": dashboards}


PAGES = read()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        page = PAGES.get(self.path.split("?")[0])
        self.send_response(200 if page is not None else 404)
        self.end_headers()
        self.wfile.write(json.dumps(page).encode())

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("0.0.0.0", 3000), Handler).serve_forever()
