{{/* Parts of the pods of all components. Each takes (dict "root" $ "component" "joiner"). */}}

{{- define "monolith.podMetadata" -}}
{{- $root := .root -}}
{{- $job := include "monolith.job" $root | fromJson -}}
{{- range $key, $_ := (get $root.Values .component).podAnnotations -}}
{{- if has $key (list "checksum/job" "prometheus.io/scrape" "prometheus.io/port" "prometheus.io/path") -}}
{{- fail (printf "%s.podAnnotations must not have %s, the chart sets it" $.component $key) -}}
{{- end -}}
{{- end -}}
labels:
  {{- include "monolith.selector" . | nindent 2 }}
annotations:
  # A changed job restarts the pods.
  checksum/job: {{ $root.Values.job | sha256sum }}
  {{- if $root.Values.scrapeAnnotations }}
  prometheus.io/scrape: "true"
  prometheus.io/port: {{ get $job.observe (printf "%s_port" .component) | int | quote }}
  prometheus.io/path: /metrics
  {{- end }}
  {{- with (get $root.Values .component).podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Fields of the pod, without containers and volumes. */}}
{{- define "monolith.podSpec" -}}
{{- $root := .root -}}
{{- $values := get $root.Values .component -}}
serviceAccountName: {{ include "monolith.serviceAccountName" $root }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ $root.Values.securityContext.runAsUser }}
  runAsGroup: {{ $root.Values.securityContext.runAsUser }}
  fsGroup: {{ $root.Values.securityContext.fsGroup }}
  # The default changes the group of every checkpoint file at each start.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Init container of every pod: creates missing topics, so pods may start in any order. */}}
{{- define "monolith.topicsContainer" -}}
name: topics
{{ include "monolith.container" . }}
args: [topics, --config, /etc/monolith/job.toml]
volumeMounts:
  {{- include "monolith.commonMounts" . | nindent 2 }}
{{- end -}}

{{/* Image, environment and security context of every container. */}}
{{- define "monolith.container" -}}
{{- $root := .root -}}
{{- $image := $root.Values.image -}}
image: {{ printf "%s:%s" $image.repository ($image.tag | default $root.Chart.AppVersion) | quote }}
imagePullPolicy: {{ $image.pullPolicy }}
command: [monolith]
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
resources:
  {{- toYaml (get $root.Values .component).resources | nindent 2 }}
{{- $secrets := dict "MONOLITH_KV_PASSWORD" $root.Values.kvPassword "MONOLITH_LOG_PASSWORD" $root.Values.logPassword }}
{{- $names := list -}}
{{- range $name, $secret := $secrets -}}
{{- if $secret.existingSecret -}}
{{- $names = append $names $name -}}
{{- end -}}
{{- end -}}
{{- $given := $names -}}
{{- range $root.Values.env -}}
{{- if has .name $names -}}
{{- fail (printf "env must name each variable once, got %s twice" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end }}
{{- if $names }}
env:
  {{- range $name := $given }}
  {{- $secret := get $secrets $name }}
  - name: {{ $name }}
    valueFrom:
      secretKeyRef:
        name: {{ $secret.existingSecret }}
        key: {{ $secret.key }}
  {{- end }}
  {{- with $root.Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "monolith.commonMounts" -}}
- name: job
  mountPath: /etc/monolith
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- range $store, $tls := dict "log" .root.Values.logTls "kv" .root.Values.kvTls }}
{{- if $tls.existingSecret }}
- name: {{ $store }}-tls
  mountPath: /etc/monolith-tls/{{ $store }}
  readOnly: true
{{- end }}
{{- end }}
{{- end -}}

{{- define "monolith.commonVolumes" -}}
- name: job
  configMap:
    name: {{ include "monolith.fullname" .root }}
# Temporary files of libraries: the root file system is read-only.
- name: tmp
  emptyDir:
    sizeLimit: 1Gi
{{- range $store, $tls := dict "log" .root.Values.logTls "kv" .root.Values.kvTls }}
{{- if $tls.existingSecret }}
- name: {{ $store }}-tls
  secret:
    secretName: {{ $tls.existingSecret }}
    # Keys are readable by the group of the pod, which is fsGroup.
    defaultMode: 0440
{{- end }}
{{- end }}
{{- end -}}

{{- define "monolith.checkpointsVolume" -}}
{{- $job := include "monolith.job" .root | fromJson -}}
- name: checkpoints
  {{- if hasPrefix "s3://" $job.trainer.checkpoint_dir }}
  # Local copies: the checkpoints are in the object store.
  emptyDir:
    sizeLimit: {{ .root.Values.checkpoints.size }}
  {{- else }}
  persistentVolumeClaim:
    claimName: {{ include "monolith.claimName" .root }}
  {{- end }}
{{- end -}}

{{- define "monolith.checkpointsMount" -}}
{{- $folder := (include "monolith.job" .root | fromJson).trainer.checkpoint_dir -}}
- name: checkpoints
  mountPath: {{ ternary "/checkpoints" $folder (hasPrefix "s3://" $folder) }}
{{- end -}}

{{/* Probes of the metrics port. Imports take some seconds at the start. */}}
{{- define "monolith.metricsProbes" -}}
startupProbe:
  httpGet:
    path: /metrics
    port: metrics
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet:
    path: /metrics
    port: metrics
  periodSeconds: 15
  timeoutSeconds: 5
  failureThreshold: 4
{{- end -}}
