{{/*
The job's TOML as JSON. Checks the rules of a cluster, beyond those of monolith_py.config. Templates read ports and folders from it, by
(include "monolith.job" . | fromJson).
*/}}
{{- define "monolith.job" -}}
{{- if gt (len .Values.job) 1000000 -}}
{{- fail (printf "job must be at most 1000000 bytes, a ConfigMap takes no more, got %d" (len .Values.job)) -}}
{{- end -}}
{{- $fullname := include "monolith.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $fullname) -}}
{{- fail (printf "the names of objects must begin with a lower-case letter, as a Service's must, got %q: set fullnameOverride" $fullname) -}}
{{- end -}}
{{- $job := fromToml .Values.job -}}
{{- with get $job "Error" -}}
{{- fail (printf "job must be a TOML document: %s" .) -}}
{{- end -}}
{{- $log := dig "log" "url" "" $job -}}
{{- if not (hasPrefix "kafka://" $log) -}}
{{- fail (printf "job: log.url must begin with kafka:// on a cluster, got %q" $log) -}}
{{- end -}}
{{- $kv := dig "kv" "url" "" $job -}}
{{- if not (regexMatch "^rediss?://" $kv) -}}
{{- fail (printf "job: kv.url must begin with redis:// or rediss:// on a cluster, got %q" $kv) -}}
{{- end -}}
{{- if regexMatch "^rediss?://.*:.*@" $kv -}}
{{- fail "job: kv.url must hold no password: a ConfigMap is no Secret; set kvPassword.existingSecret" -}}
{{- end -}}
{{- $protocol := dig "log" "security" "protocol" "PLAINTEXT" $job -}}
{{- $given := list -}}
{{- range .Values.env -}}
{{- $given = append $given .name -}}
{{- end -}}
{{- if and (hasPrefix "SASL_" $protocol) (not .Values.logPassword.existingSecret) (not (has "MONOLITH_LOG_PASSWORD" $given)) (not (has "MONOLITH_LOG_PASSWORD_FILE" $given)) -}}
{{- fail (printf "job: log.security.protocol %s needs a password: set logPassword.existingSecret" $protocol) -}}
{{- end -}}
{{- if and .Values.logPassword.existingSecret (not (hasPrefix "SASL_" $protocol)) -}}
{{- fail (printf "logPassword.existingSecret must come with log.security.protocol SASL_PLAINTEXT or SASL_SSL in the job, got %q" $protocol) -}}
{{- end -}}
{{- range $store, $tls := dict "log" .Values.logTls "kv" .Values.kvTls "serving" .Values.servingTls -}}
{{- range $name, $file := dig $store "security" (dict) $job -}}
{{- if and (hasPrefix (printf "/etc/monolith-tls/%s/" $store) (toString $file)) (not $tls.existingSecret) -}}
{{- fail (printf "job: %s.security.%s is in /etc/monolith-tls/%s: set %sTls.existingSecret" $store $name $store $store) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $security := dig "serving" "security" (dict) $job -}}
{{- if and $security.require_token (not .Values.servingTokens.existingSecret) (not (has "MONOLITH_SERVING_TOKENS" $given)) (not (has "MONOLITH_SERVING_TOKENS_FILE" $given)) -}}
{{- fail "job: serving.security.require_token needs tokens: set servingTokens.existingSecret" -}}
{{- end -}}
{{- $folder := dig "trainer" "checkpoint_dir" "" $job -}}
{{- if hasPrefix "s3://" $folder -}}
{{- $cache := dig "objects" "cache_dir" "" $job -}}
{{- if not (regexMatch "^/checkpoints(/|$)" $cache) -}}
{{- fail (printf "job: objects.cache_dir must be in /checkpoints, where the volume of local copies is mounted, got %q" $cache) -}}
{{- end -}}
{{- $folder = "/checkpoints" -}}
{{- end -}}
{{- if not (regexMatch "^/.+" $folder) -}}
{{- fail (printf "job: trainer.checkpoint_dir must be an absolute folder, the volume is mounted there, got %q" $folder) -}}
{{- end -}}
{{- if or (regexMatch "^/(tmp|etc|proc|sys|dev|usr|bin|lib)?(/|$)" $folder) (regexMatch ":|(^|/)[.][.]?(/|$)" $folder) -}}
{{- fail (printf "job: trainer.checkpoint_dir must be a folder of its own without ':', '.' and '..', the volume is mounted there, got %q" $folder) -}}
{{- end -}}
{{- $host := dig "serving" "host" "" $job -}}
{{- if not (has $host (list "0.0.0.0" "[::]")) -}}
{{- fail (printf "job: serving.host must be \"0.0.0.0\" or \"[::]\" in a pod, got %q" $host) -}}
{{- end -}}
{{- $ports := dict -}}
{{- $needed := list "serving.port" "observe.joiner_port" "observe.trainer_port" "observe.serving_port" -}}
{{- /* Kubernetes' gRPC probes know no TLS. */ -}}
{{- if or $security.certificate_file (dig "serving" "health_port" 0 $job) -}}
{{- $needed = append $needed "serving.health_port" -}}
{{- end -}}
{{- range $component := include "monolith.optional" . | fromJsonArray -}}
{{- $needed = append $needed (printf "observe.%s_port" $component) -}}
{{- end -}}
{{- range $path := $needed -}}
{{- $parts := splitList "." $path -}}
{{- $port := dig (first $parts) (last $parts) 0 $job -}}
{{- if lt (int $port) 1 -}}
{{- fail (printf "job: %s must be a port, probes need it, got %v" $path $port) -}}
{{- end -}}
{{- if or (lt (int $port) 1024) (gt (int $port) 65535) -}}
{{- fail (printf "job: %s must be in 1024..65535, processes run without root, got %v" $path $port) -}}
{{- end -}}
{{- if hasKey $ports (toString $port) -}}
{{- fail (printf "job: %s must differ from %s, got %v for both" $path (get $ports (toString $port)) $port) -}}
{{- end -}}
{{- $_ := set $ports (toString $port) $path -}}
{{- end -}}
{{- toJson $job -}}
{{- end -}}
