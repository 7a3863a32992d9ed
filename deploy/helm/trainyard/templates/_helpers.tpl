{{- define "trainyard.name" -}}
{{- if contains "trainyard" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-trainyard" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "trainyard.account" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "trainyard.name" .) .Values.serviceAccount.name }}{{ else }}{{ required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- define "trainyard.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}{{ end }}
{{- end }}

{{- define "trainyard.selector" -}}
app.kubernetes.io/name: trainyard
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "trainyard.labels" -}}
{{ include "trainyard.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: trainyard
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "trainyard.agentUrl" -}}
{{- default (printf "https://%s-agents.%s.svc:%v" (include "trainyard.name" .) .Release.Namespace .Values.services.agent.port) .Values.runs.agentUrl }}
{{- end }}

{{- define "trainyard.installation" -}}
{{ .Release.Namespace }}.{{ .Release.Name }}
{{- end }}

{{- define "trainyard.locked" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "trainyard.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "trainyard.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- range . }}
  - name: {{ . }}{{ end }}
{{- end }}
{{- end }}

{{- /* Which nodes the daemon and its cleanup may run on. */}}
{{- define "trainyard.place" -}}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* A text as the daemon writes it into a label: itself where a label can hold it, else a digest of it. */}}
{{- define "trainyard.labelValue" -}}
{{- if and (le (len .) 63) (regexMatch "^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$" .) }}{{ . }}{{ else }}h-{{ sha256sum . | trunc 16 }}{{ end }}
{{- end }}

{{- /* The same for a part of an object's name. */}}
{{- define "trainyard.objectName" -}}
{{- if and (le (len .) 63) (regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" .) }}{{ . }}{{ else }}h-{{ sha256sum . | trunc 16 }}{{ end }}
{{- end }}

{{- define "trainyard.dns" -}}
- ports: {{- range .dnsPorts }}
    - {port: {{ . }}, protocol: UDP}
    - {port: {{ . }}, protocol: TCP}{{ end }}
  {{- with .dnsTo }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- /* The egress rule to a URL's host. A Service's port need not be its pods', which a policy sees: within the cluster the namespace
counts. Elsewhere a policy takes no names: the port counts. */}}
{{- define "trainyard.way" -}}
{{- $place := regexReplaceAll "^[a-z]+://([^/?@]*@)?([^/?#]*).*$" .url "${2}" }}
{{- $port := regexFind ":[0-9]+$" $place | trimPrefix ":" | default .port }}
{{- $parts := splitList "." (regexReplaceAll ":[0-9]+$" $place "") }}
{{- $namespace := "" }}
{{- range $i, $part := $parts }}{{ if and (eq $part "svc") (ge $i 2) }}{{ $namespace = index $parts (sub $i 1 | int) }}{{ end }}{{ end }}
{{- if $namespace }}
- to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ $namespace }}}}}]
{{- else }}
- ports: [{port: {{ $port }}, protocol: TCP}]
{{- end }}
{{- end }}
