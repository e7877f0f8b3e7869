#!/bin/sh
# Makes the secrets of a gateway and its Redis at their first start. Later starts keep them.
#   first_secrets.sh FOLDER [REDIS_FOLDER]
# FOLDER gets `keys`, the file of API keys, with a key named default, and `default.key`, that key itself. With REDIS_FOLDER it
# also gets `cache.key`, which signs cached values, and `redis.password`, and that folder `redis.conf` with the same password.
set -eu
umask 077
folder=$1
redis_folder=${2:-}

# Text of standard input as file $1, whole or not at all.
write() {
  cat >"$1.new"
  [ -s "$1.new" ]
  mv "$1.new" "$1"
}

random() {
  head -c 32 /dev/urandom | od -A n -v -t x1 | tr -d ' \n'
}

# A revoked key stays revoked: what counts is the file of keys, not the key named default.
if [ ! -e "$folder/keys" ]; then
  rm -f "$folder/keys.new"
  note=$(fovea keys add default --file "$folder/keys.new" 2>&1 >"$folder/default.key") || { echo "$note" >&2 && exit 1; }
  mv "$folder/keys.new" "$folder/keys"
  echo "made an API key named default"
fi
if [ -n "$redis_folder" ]; then
  if [ ! -e "$folder/cache.key" ]; then
    random | write "$folder/cache.key"
    echo "made the key of cached values"
  fi
  if [ ! -e "$folder/redis.password" ]; then
    random | write "$folder/redis.password"
    echo "made the password of Redis"
  fi
  printf 'requirepass %s\n' "$(cat "$folder/redis.password")" | write "$redis_folder/redis.conf"
fi
