import type { Metadata } from 'next';
import Link from 'next/link';
import './style.css';

export const metadata: Metadata = { title: 'Dousell Immo', description: 'Des biens à louer au Sénégal' };

export default function Layout({ children }: { children: React.ReactNode }) {
  return (
    <html lang="fr">
      <body>
        <header>
          <Link href="/">Dousell Immo</Link>
          <nav><Link href="/catalogue">Catalogue</Link> <Link href="/baux/1">Mon loyer</Link></nav>
        </header>
        <main>{children}</main>
        <footer>Un exemple de crieur-cache : aucune page ne montre un ancien prix.</footer>
      </body>
    </html>
  );
}
