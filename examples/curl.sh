#!/bin/sh
# Classifies one picture with curl: curl.sh FILE [URL]. The key, if the service asks for one, is in CLASSIFY_API_KEY.
# While the service is busy (503), curl waits as `Retry-After` tells and asks again.
set -eu
curl --silent --show-error --fail-with-body --retry 5 \
  ${CLASSIFY_API_KEY:+--header "Authorization: Bearer $CLASSIFY_API_KEY"} \
  --header "Content-Type: application/octet-stream" --data-binary "@$1" \
  "${2:-http://localhost:3000}/classify?top_k=3"
