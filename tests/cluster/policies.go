package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// policies enforces NetworkPolicies of one node with nftables: every half second it reads pods and policies and, when they
// have changed, replaces one table. Pods sit behind point-to-point links, so all that they send is forwarded and passes here.
// What it does not know (named ports of other protocols, end ports) makes it stop rather than let through.
func policies() *cobra.Command {
	var kubeconfig string
	command := &cobra.Command{
		Use: "policies",
		RunE: func(command *cobra.Command, _ []string) error {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			last := ""
			for {
				table, err := rules(command.Context(), client)
				if err == nil && table != last {
					err = load(table)
					if err == nil {
						last = table
					}
				}
				if err != nil {
					fmt.Fprintln(os.Stderr, "policies:", err)
				}
				time.Sleep(500 * time.Millisecond)
			}
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "the cluster")
	return command
}

func load(table string) error {
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(table)
	out, err := nft.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s\n%s", err, out, table)
	}
	return nil
}

type world struct {
	pods       []core.Pod
	namespaces map[string]labels.Set
}

func rules(ctx context.Context, client *kubernetes.Clientset) (string, error) {
	pods, err := client.CoreV1().Pods("").List(ctx, meta.ListOptions{})
	if err != nil {
		return "", err
	}
	namespaces, err := client.CoreV1().Namespaces().List(ctx, meta.ListOptions{})
	if err != nil {
		return "", err
	}
	all, err := client.NetworkingV1().NetworkPolicies("").List(ctx, meta.ListOptions{})
	if err != nil {
		return "", err
	}
	w := world{namespaces: map[string]labels.Set{}}
	for _, namespace := range namespaces.Items {
		w.namespaces[namespace.Name] = namespace.Labels
	}
	for _, pod := range pods.Items {
		if pod.Status.PodIP != "" && !pod.Spec.HostNetwork && pod.Status.Phase != core.PodSucceeded && pod.Status.Phase != core.PodFailed {
			w.pods = append(w.pods, pod)
		}
	}
	sort.Slice(w.pods, func(a, b int) bool { return w.pods[a].Status.PodIP < w.pods[b].Status.PodIP })
	var out, in, sets []string
	for _, pod := range w.pods {
		var allowedIn, allowedOut []string
		isolatedIn, isolatedOut := false, false
		for _, policy := range all.Items {
			if policy.Namespace != pod.Namespace || !matches(&policy.Spec.PodSelector, pod.Labels) {
				continue
			}
			for _, kind := range policy.Spec.PolicyTypes {
				switch kind {
				case networking.PolicyTypeIngress:
					isolatedIn = true
					for _, rule := range policy.Spec.Ingress {
						more, err := w.lines("saddr", rule.From, rule.Ports, policy.Namespace, []core.Pod{pod})
						if err != nil {
							return "", fmt.Errorf("%s/%s: %w", policy.Namespace, policy.Name, err)
						}
						allowedIn = append(allowedIn, more...)
					}
				case networking.PolicyTypeEgress:
					isolatedOut = true
					for _, rule := range policy.Spec.Egress {
						more, err := w.lines("daddr", rule.To, rule.Ports, policy.Namespace, w.pods)
						if err != nil {
							return "", fmt.Errorf("%s/%s: %w", policy.Namespace, policy.Name, err)
						}
						allowedOut = append(allowedOut, more...)
					}
				}
			}
		}
		chain := strings.NewReplacer(".", "_", ":", "_").Replace(pod.Status.PodIP)
		if isolatedIn {
			in = append(in, fmt.Sprintf("ip daddr %s jump in_%s", pod.Status.PodIP, chain))
			sets = append(sets, block("in_"+chain, allowedIn))
		}
		if isolatedOut {
			out = append(out, fmt.Sprintf("ip saddr %s jump out_%s", pod.Status.PodIP, chain))
			sets = append(sets, block("out_"+chain, allowedOut))
		}
	}
	return "table inet policies {}\ndelete table inet policies\ntable inet policies {\n" + strings.Join(sets, "") +
		// What a pod sends to its node's own addresses is input, not forwarded; what the node itself sends is always allowed.
		"chain forward { type filter hook forward priority 10; policy accept;\nct state established,related accept\n" +
		strings.Join(append(out, in...), "\n") + "\n}\nchain input { type filter hook input priority 10; policy accept;\nct state established,related accept\n" +
		strings.Join(out, "\n") + "\n}\n}\n", nil
}

// block returns (to the other direction's check) when a rule allows, and drops otherwise.
func block(name string, allowed []string) string {
	return "chain " + name + " {\n" + strings.Join(allowed, "\n") + "\ndrop\n}\n"
}

func matches(selector *meta.LabelSelector, set labels.Set) bool {
	parsed, err := meta.LabelSelectorAsSelector(selector)
	return err == nil && parsed.Matches(set)
}

// lines are the allowing rules of one ingress or egress rule. `targets` are the pods whose container ports a name may mean.
func (w world) lines(side string, peers []networking.NetworkPolicyPeer, ports []networking.NetworkPolicyPort, namespace string, targets []core.Pod) ([]string, error) {
	var addresses []string
	if len(peers) == 0 {
		addresses = []string{""}
	}
	for _, peer := range peers {
		if peer.IPBlock != nil {
			if _, _, err := net.ParseCIDR(peer.IPBlock.CIDR); err != nil {
				return nil, err
			}
			line := fmt.Sprintf("ip %s %s ", side, peer.IPBlock.CIDR)
			if len(peer.IPBlock.Except) > 0 {
				line += fmt.Sprintf("ip %s != { %s } ", side, strings.Join(peer.IPBlock.Except, ", "))
			}
			addresses = append(addresses, line)
			continue
		}
		for _, pod := range w.pods {
			inNamespace := pod.Namespace == namespace
			if peer.NamespaceSelector != nil {
				inNamespace = matches(peer.NamespaceSelector, w.namespaces[pod.Namespace])
			}
			if inNamespace && (peer.PodSelector == nil || matches(peer.PodSelector, pod.Labels)) {
				addresses = append(addresses, fmt.Sprintf("ip %s %s ", side, pod.Status.PodIP))
			}
		}
	}
	var matchers []string
	if len(ports) == 0 {
		matchers = []string{""}
	}
	for _, port := range ports {
		protocol := "tcp"
		if port.Protocol != nil {
			protocol = strings.ToLower(string(*port.Protocol))
		}
		switch {
		case port.EndPort != nil:
			return nil, fmt.Errorf("end ports are not known here")
		case port.Port == nil:
			matchers = append(matchers, "meta l4proto "+protocol+" ")
		case port.Port.Type == intstr.Int:
			matchers = append(matchers, fmt.Sprintf("%s dport %d ", protocol, port.Port.IntVal))
		default:
			found := false
			for _, pod := range targets {
				for _, container := range pod.Spec.Containers {
					for _, named := range container.Ports {
						if named.Name == port.Port.StrVal {
							found = true
							matchers = append(matchers, fmt.Sprintf("%s dport %d ", protocol, named.ContainerPort))
						}
					}
				}
			}
			_ = found // a name that no pod has matches nothing
		}
	}
	var lines []string
	for _, address := range addresses {
		for _, matcher := range matchers {
			lines = append(lines, address+matcher+"return")
		}
	}
	return lines, nil
}

// dial tries one TCP connection and says `open` or `shut`.
func dial() *cobra.Command {
	return &cobra.Command{
		Use: "dial",
		RunE: func(_ *cobra.Command, args []string) error {
			for _, address := range args {
				connection, err := net.DialTimeout("tcp", address, 1500*time.Millisecond)
				if err != nil {
					fmt.Println("shut", address)
					continue
				}
				_ = connection.Close()
				fmt.Println("open", address)
			}
			return nil
		},
	}
}
