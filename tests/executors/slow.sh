#!/bin/sh
# A build that goes on until the file named by PANDA_TEST_GATE is there, and then ends as hello.sh does.
set -eu
echo "slow build has begun"
while [ ! -e "$PANDA_TEST_GATE" ]; do sleep 0.1; done
echo "slow build goes on"
exec "$(dirname "$0")/hello.sh"
