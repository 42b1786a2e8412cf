// The dashboard: one header, one page at a time, dialogs above. State lives in the URL (url.ts); what the server says live, in live.ts.
import './style.css';
import { render } from 'preact';
import { pageName, go } from './url';
import { start } from './live';
import { Header, Dialogs, Notice, keys } from './parts/chrome';
import { ToggleSheet } from './parts/sheet';
import { AttachSheet } from './parts/attach';
import { Overview } from './pages/overview';
import { Policies } from './pages/policies';
import { Hot } from './pages/hot';
import { Graph } from './pages/graph';
import { Explore } from './pages/explore';
import { TracePage } from './pages/trace';
import { Toggles } from './pages/toggles';
import { Audit } from './pages/audit';
import { Processes } from './pages/processes';

const pages: Record<string, () => preact.JSX.Element> = {
  overview: Overview,
  hot: Hot,
  graph: Graph,
  explore: Explore,
  trace: TracePage,
  toggles: Toggles,
  policies: Policies,
  audit: Audit,
  processes: Processes,
};

function App() {
  const Page = pages[pageName.value];
  return (
    <>
      <a class="skip" href="#main">
        Skip to content
      </a>
      <Header />
      <main id="main" tabIndex={-1}>
        {Page ? (
          <Page />
        ) : (
          <div class="empty">
            <h1>No such page</h1>
            <p>There is nothing at /{pageName.value}.</p>
            <button onClick={() => go('hot')}>Go to Hot</button>
          </div>
        )}
      </main>
      <ToggleSheet />
      <AttachSheet />
      <Dialogs />
      <Notice />
    </>
  );
}

start();
keys();
render(<App />, document.getElementById('app')!);
