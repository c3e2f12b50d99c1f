{{/* Of an object that belongs to the given application, `skywave` or `redis`. */}}
{{- define "skywave.labels" -}}
app.kubernetes.io/name: {{ . }}
app.kubernetes.io/part-of: skywave
app.kubernetes.io/managed-by: Helm
{{- end }}

{{/* A duration of the settings in whole seconds: "90s", "2m", "1m 30s". */}}
{{- define "skywave.seconds" -}}
{{- if not (regexMatch "^([0-9]+m)? ?([0-9]+s)?$" .) }}
{{- fail (printf "drain.deadline in `config` must be whole minutes and seconds, such as \"1m 30s\", not %q" .) }}
{{- end }}
{{- $minutes := regexFind "[0-9]+m" . | trimSuffix "m" | default "0" | int }}
{{- $seconds := regexFind "[0-9]+s" . | trimSuffix "s" | default "0" | int }}
{{- add (mul $minutes 60) $seconds }}
{{- end }}

{{/* How long a pod may take to leave: preStop, the drain's deadline (the node's own default is 90 s), 10 s to end: 5 s for Redis and 5 s for the receiver of events, if they do not answer. */}}
{{- define "skywave.terminationGrace" -}}
{{- $settings := fromToml .Values.config }}
{{- if $settings.Error }}
{{- fail (printf "config is not TOML: %s" $settings.Error) }}
{{- end }}
{{- $drain := $settings.drain | default dict }}
{{- add .Values.preStopSeconds (include "skywave.seconds" ($drain.deadline | default "90s") | int) 10 }}
{{- end }}
