package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	plugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const socket = "fake-gpu.sock"

// fakeGPU is a device plugin that offers devices which exist in name only, so that scheduling by `nvidia.com/gpu`,
// its limits and the environment of a container are the real ones.
func fakeGPU() *cobra.Command {
	var count int
	var resource string
	command := &cobra.Command{
		Use: "fake-gpu",
		RunE: func(command *cobra.Command, _ []string) error {
			for {
				if err := serve(command.Context(), resource, count); err != nil {
					fmt.Fprintln(os.Stderr, "fake-gpu:", err)
				}
				time.Sleep(200 * time.Millisecond)
			}
		},
	}
	command.Flags().IntVar(&count, "count", 4, "how many devices")
	command.Flags().StringVar(&resource, "resource", "nvidia.com/gpu", "the resource's name")
	return command
}

type gpus struct {
	plugin.UnimplementedDevicePluginServer
	count int
}

func (g gpus) GetDevicePluginOptions(context.Context, *plugin.Empty) (*plugin.DevicePluginOptions, error) {
	return &plugin.DevicePluginOptions{}, nil
}

func (g gpus) ListAndWatch(_ *plugin.Empty, stream plugin.DevicePlugin_ListAndWatchServer) error {
	var devices []*plugin.Device
	for n := range g.count {
		devices = append(devices, &plugin.Device{ID: fmt.Sprintf("GPU-%d", n), Health: plugin.Healthy})
	}
	if err := stream.Send(&plugin.ListAndWatchResponse{Devices: devices}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

func (g gpus) Allocate(_ context.Context, asked *plugin.AllocateRequest) (*plugin.AllocateResponse, error) {
	answer := &plugin.AllocateResponse{}
	for _, container := range asked.ContainerRequests {
		visible := ""
		for n, id := range container.DevicesIds {
			if n > 0 {
				visible += ","
			}
			visible += id
		}
		answer.ContainerResponses = append(answer.ContainerResponses, &plugin.ContainerAllocateResponse{
			Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": visible},
		})
	}
	return answer, nil
}

// serve registers with the kubelet and serves until the kubelet wipes its directory, as it does when it starts.
func serve(ctx context.Context, resource string, count int) error {
	path := filepath.Join(plugin.DevicePluginPath, socket)
	_ = os.Remove(path)
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	plugin.RegisterDevicePluginServer(server, gpus{count: count})
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	kubelet, err := grpc.NewClient("unix://"+plugin.KubeletSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer kubelet.Close()
	within, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err = plugin.NewRegistrationClient(kubelet).Register(within, &plugin.RegisterRequest{
		Version: plugin.Version, Endpoint: socket, ResourceName: resource,
	})
	if err != nil {
		return err
	}
	for {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("the kubelet started again")
		}
		time.Sleep(500 * time.Millisecond)
	}
}
