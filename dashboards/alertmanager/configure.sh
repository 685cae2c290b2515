#!/bin/sh
# Prints Alertmanager's configuration with the recipient and the mail server of this installation, because
# Alertmanager itself reads no environment variables.
#
#   TENANTRY_ALERTS_TO         email addresses of the operators, separated by commas; the one setting that every
#                              installation needs
#   TENANTRY_ALERTS_FROM       sender; by default the first recipient
#   TENANTRY_ALERTS_SMTP       host:port of a mail server; not the one that the product uses, if you have another
#   TENANTRY_ALERTS_SMTP_USER  user at the mail server, which then must offer TLS
#   TENANTRY_ALERTS_SMTP_PASSWORD_FILE  file with the password of that user
#
# What is not set stays as in alertmanager.yml.
set -eu

# A value is inserted as a quoted YAML string. Email addresses, hosts and paths need nothing else.
value() {
  case $2 in
    *[!A-Za-z0-9.,:@_+/=-]*) echo "configure.sh: $1 contains a character that is not allowed: $2" >&2; exit 78 ;;
  esac
  printf '"%s"' "$2"
}

edit() { script="$script${script:+;}$1"; }

script=
if [ -n "${TENANTRY_ALERTS_TO:-}" ]; then
  to=$(value TENANTRY_ALERTS_TO "$TENANTRY_ALERTS_TO")
  edit "s|^\( *- to: \).*|\1$to|"
fi
sender=${TENANTRY_ALERTS_FROM:-${TENANTRY_ALERTS_TO:-}}
if [ -n "$sender" ]; then
  from=$(value TENANTRY_ALERTS_FROM "${sender%%,*}")
  edit "s|^\( *smtp_from: \).*|\1$from|"
fi
if [ -n "${TENANTRY_ALERTS_SMTP:-}" ]; then
  smtp=$(value TENANTRY_ALERTS_SMTP "$TENANTRY_ALERTS_SMTP")
  edit "s|^\( *smtp_smarthost: \).*|\1$smtp|"
fi
if [ -n "${TENANTRY_ALERTS_SMTP_USER:-}" ]; then
  user=$(value TENANTRY_ALERTS_SMTP_USER "$TENANTRY_ALERTS_SMTP_USER")
  file=$(value TENANTRY_ALERTS_SMTP_PASSWORD_FILE "${TENANTRY_ALERTS_SMTP_PASSWORD_FILE:?is required with TENANTRY_ALERTS_SMTP_USER}")
  edit "s|^\( *\)smtp_require_tls: .*|\1smtp_require_tls: true\n\1smtp_auth_username: $user\n\1smtp_auth_password_file: $file|"
fi
sed "$script" "$(dirname "$0")/alertmanager.yml"
